#!/bin/sh
# Upgrades a daemon again and again under load, and prints what its callers noticed (Markdown):
# unary calls as fast as they go, 100 streams, and newcomers, one after the other.
#
#   sh tests/bench/upgrade.sh [--upgrades N] [--build DIR]
#
# Builds the release preset first; --build takes what is built there instead. Fails if a connection
# was refused or a call was cut.
set -eu

source=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
upgrades=20
build=''
while [ $# -gt 0 ]; do
    case $1 in
    --upgrades) upgrades=$2 && shift 2 ;;
    --build) build=$2 && shift 2 ;;
    *) echo "usage: upgrade.sh [--upgrades N] [--build DIR]" >&2 && exit 2 ;;
    esac
done

if [ -z "$build" ]; then
    build=$source/build/release
    sh "$source/packaging/install-dependencies.sh" build bench >&2
    (cd "$source" && cmake --preset release >/dev/null)
    cmake --build "$build" --target completiond bench_upstream bench_upgrade >&2
fi
for program in daemon/completiond tests/bench/bench_upstream tests/bench/bench_upgrade; do
    [ -x "$build/$program" ] || { echo "upgrade.sh: $build has no $program" >&2 && exit 1; }
done

dir=$(mktemp -d)
upstream='' daemon='' callers=''
finish() {
    for pid in $callers $daemon $upstream; do
        kill "$pid" 2>/dev/null || continue
        wait "$pid" 2>/dev/null || :
    done
    rm -rf "$dir"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

mkfifo "$dir/ready"
"$build/tests/bench/bench_upstream" --ready-fd 3 --interval-us 20000 3>"$dir/ready" &
upstream=$!
read -r port <"$dir/ready"

cat >"$dir/completiond.conf" <<END
[upstream bench]
base_url = http://127.0.0.1:$port/v1
auth = none
max_concurrent = 1000

[policy *]
max_concurrent = 1000
END

install_program() {
    cp "$build/daemon/completiond" "$dir/completiond.new"
    mv "$dir/completiond.new" "$dir/completiond"
}
install_program
"$dir/completiond" --config "$dir/completiond.conf" --listen "$dir/rpc.sock" 2>"$dir/log" &
daemon=$!
until [ -S "$dir/rpc.sock" ]; do
    kill -0 "$daemon" || exit 1
    sleep 0.05
done

start() { # NAME OPTIONS...
    name=$1
    shift
    "$build/tests/bench/bench_upgrade" --target "$dir/rpc.sock" "$@" >"$dir/$name" &
    callers="$callers $!"
}
start load --connections 4 --in-flight 2
start newcomers --renew
start streams --connections 1 --in-flight 100 --chunks 200 --model paced

mark() {
    for pid in $callers; do kill -USR1 "$pid"; done
}

# The process that serves; what the log says is when it has changed.
i=0
while [ $i -lt "$upgrades" ]; do
    sleep 0.3
    i=$((i + 1))
    install_program
    mark
    kill -HUP "$daemon"
    until pid=$(sed -n 's/.*handed over to process \([0-9]*\);.*/\1/p' "$dir/log" | sed -n "${i}p") &&
        [ -n "$pid" ]; do
        if grep 'not handed over' "$dir/log" >&2; then exit 1; fi
        sleep 0.01
    done
    daemon=$pid
    # Callers have moved by then.
    sleep 0.3
    mark
done

failed=0
for pid in $callers; do kill "$pid"; done
for pid in $callers; do wait "$pid" || failed=1; done
callers=''

echo "$upgrades upgrades, $(nproc) CPUs. The longest call, in ms, of each upgrade and of each time"
echo "between two: median / highest."
echo
echo "| callers | calls | per second | upgrades | between | to be sent again | refused | cut |"
echo "|---|---|---|---|---|---|---|---|"
row() { # TITLE NAME
    sed -e 's/[a-z_]*=//g' -e 's/ / | /g' -e "s/^/| $1 | /" -e 's/$/ |/' "$dir/$2"
}
row 'as fast as they go, 8 in flight' load
row 'newcomers, from connect() on' newcomers
row '100 streams of 4 s' streams
exit $failed

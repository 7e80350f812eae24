#!/bin/sh
# Measures completiond beside those who do the same work, in turns, and prints tables (Markdown).
#
#   sh tests/bench/run.sh [--only ROW,...] [--peers PEER,...] [--rounds N] [--results FILE]
#                         [--plot FILE.svg] [--build DIR]
#
# Rows: latency, latency_free, calls, calls_free, burst, burst_free, paced, load, memory, cold, hold,
# scale, workers; all of them if nothing is said. Peers: direct, nginx, haproxy, grpc_cpp,
# completiond, floor, and when asked for completiond_bare. README.md says what they are.
# --results keeps what was measured, and adds to what is there: the tables are of all of it.
#
# Builds the release preset first; --build takes what is built there instead. Everything is made in
# a directory of its own and ended on the way out.
# shellcheck disable=SC2034 # variables for what is sourced
set -eu

source=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
here=$source/tests/bench
rounds=5 build='' results='' plot='' rows='' wanted=''
usage() {
    sed -n '4,5s/^# *//p' "$0" >&2
    exit 2
}
while [ $# -gt 1 ]; do
    case $1 in
    --rounds) rounds=$2 ;;
    --build) build=$2 ;;
    --results) results=$2 ;;
    --plot) plot=$2 ;;
    --only) rows=$(echo "$2" | tr ',' ' ') ;;
    --peers) wanted=$(echo "$2" | tr ',' ' ') ;;
    *) usage ;;
    esac
    shift 2
done
[ $# -eq 0 ] || usage

if [ -z "$build" ]; then
    build=$source/build/release
    sh "$source/packaging/install-dependencies.sh" build bench >&2
    (cd "$source" && cmake --preset release >/dev/null)
    cmake --build "$build" --target bench >&2
fi
build=$(CDPATH='' cd -- "$build" && pwd)

dir=$(mktemp -d)
chmod 755 "$dir"
results=${results:-$dir/results}
touch "$results"

# What has been started and not ended.
running=' '
runs() { # PID
    running="$running$1 "
}
end() { # PID
    kill "$1" 2>/dev/null || :
    wait "$1" 2>/dev/null || :
    running=$(echo "$running" | sed "s/ $1 / /")
}
finish() {
    for pid in $running; do end "$pid"; done
    rm -rf "$dir"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

note() { # TEXT
    printf '\r%-70s\n' "$1" >&2
}

# shellcheck source-path=SCRIPTDIR source=peers.sh
. "$here/peers.sh"
# shellcheck source-path=SCRIPTDIR source=rows.sh
. "$here/rows.sh"

# All CPUs that this shell may run on, and two of them (one of them twice, if there is only one).
all=$(taskset -cp $$ | sed 's/.*: //')
one=$(echo "$all" | sed 's/[,-].*//')
other=$(echo "$all" | sed 's/.*[,-]//')

mkfifo "$dir/ready"
"$build/tests/bench/bench_upstream" --ready-fd 3 --interval-us 20000 3>"$dir/ready" &
upstream=$!
runs $upstream
read -r port <"$dir/ready"
base_url=http://127.0.0.1:$port/v1

peers=''
for peer in ${wanted:-$all_peers}; do
    lacks=$(peer_lacks "$peer")
    if [ -n "$lacks" ]; then
        note "$peer skipped: $lacks"
        continue
    fi
    peer_start "$peer" || { echo "run.sh: $peer does not start" >&2 && exit 1; }
    peers="$peers $peer"
done

i=0
while [ $i -lt "$rounds" ]; do
    i=$((i + 1))
    for row in ${rows:-$known_rows}; do
        # It takes minutes.
        [ "$row" != hold ] || [ $i -eq 1 ] || [ -n "$rows" ] || continue
        for peer in $peers; do
            printf '\r%-70s' "round $i of $rounds: $row $peer" >&2
            "row_$row" "$peer"
        done
    done
    # The next round in another order.
    # shellcheck disable=SC2086 # a list of words
    set -- $peers
    first=$1
    shift
    peers="$* $first"
done
printf '\r%70s\r' '' >&2

awk -v cpus="$(nproc)" -v peers="$known_peers" -f "$here/table.awk" "$results"
[ -z "$plot" ] || python3 "$here/plot.py" "$results" "$plot"

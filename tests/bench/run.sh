#!/bin/sh
# Measures completiond beside a direct libcurl client, in turns, and prints tables (Markdown).
#
#   sh tests/bench/run.sh [--rounds N] [--build DIR]
#
# Builds the release preset first; --build takes what is built there instead. Everything is made in
# a directory of its own and ended on the way out.
set -eu

source=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
rounds=5
build=''
while [ $# -gt 0 ]; do
    case $1 in
    --rounds) rounds=$2 && shift 2 ;;
    --build) build=$2 && shift 2 ;;
    *) echo "usage: run.sh [--rounds N] [--build DIR]" >&2 && exit 2 ;;
    esac
done

if [ -z "$build" ]; then
    build=$source/build/release
    sh "$source/packaging/install-dependencies.sh" build bench >&2
    (cd "$source" && cmake --preset release >/dev/null)
    cmake --build "$build" --target completiond bench_upstream bench_direct bench_client >&2
fi
for program in daemon/completiond tests/bench/bench_upstream tests/bench/bench_direct \
    tests/bench/bench_client; do
    [ -x "$build/$program" ] || { echo "run.sh: $build has no $program" >&2 && exit 1; }
done

dir=$(mktemp -d)
upstream='' daemon=''
finish() {
    for pid in $daemon $upstream; do
        kill "$pid" 2>/dev/null || continue
        wait "$pid" 2>/dev/null || :
    done
    rm -rf "$dir"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# ---- The upstream and the daemon ----

mkfifo "$dir/ready"
"$build/tests/bench/bench_upstream" --ready-fd 3 --interval-us 20000 3>"$dir/ready" &
upstream=$!
read -r port <"$dir/ready"
base_url=http://127.0.0.1:$port/v1

cat >"$dir/completiond.conf" <<END
[daemon]
log_level = warning

[upstream bench]
base_url = $base_url
auth = none
max_concurrent = 1000

[policy *]
max_concurrent = 1000
END
"$build/daemon/completiond" --config "$dir/completiond.conf" --listen "$dir/rpc.sock" &
daemon=$!
until [ -S "$dir/rpc.sock" ]; do
    kill -0 "$daemon" || exit 1
    sleep 0.05
done

# ---- CPUs ----

# All that this shell may run on, and two of them (one of them twice, if there is only one).
all=$(taskset -cp $$ | sed 's/.*: //')
one=$(echo "$all" | sed 's/[,-].*//')
other=$(echo "$all" | sed 's/.*[,-]//')

pin() { # CPUS PID...
    cpus=$1
    shift
    for pid; do
        taskset -cp "$cpus" "$pid" >/dev/null
    done
}

# ---- The cases ----

measure() { # CASE PEER CPUS OPTIONS...
    name=$1 peer=$2 cpus=$3
    shift 3
    case $peer in
    direct) set -- "$build/tests/bench/bench_direct" --target "$base_url" "$@" ;;
    completiond) set -- "$build/tests/bench/bench_client" --target "$dir/rpc.sock" \
        --daemon "$daemon" "$@" ;;
    esac
    echo "$name $peer $(taskset -c "$cpus" "$@" --upstream "$upstream")" >>"$dir/results"
}

round() { # PEER...
    for peer; do
        # All on one CPU: waking up an idle one would hide everything else.
        pin "$one" "$upstream" "$daemon"
        measure latency_one "$peer" "$one" --calls 4000 --warmup 500
        pin "$all" "$upstream" "$daemon"
        measure latency_free "$peer" "$all" --calls 4000 --warmup 500
    done
    for peer; do
        # What a host spends: client and daemon on one CPU, the upstream out of the way.
        pin "$other" "$upstream" && pin "$one" "$daemon"
        measure calls_one "$peer" "$one" --calls 20000 --warmup 1000 --in-flight 64
        measure burst_one "$peer" "$one" --calls 256 --warmup 64 --in-flight 64 --chunks 1000
        measure paced_one "$peer" "$one" --calls 200 --warmup 200 --in-flight 200 --chunks 50 \
            --connections 4 --model paced
        pin "$all" "$upstream" "$daemon"
        measure calls_free "$peer" "$all" --calls 20000 --warmup 1000 --in-flight 64
        measure burst_free "$peer" "$all" --calls 256 --warmup 64 --in-flight 64 --chunks 1000
    done
}

i=0
while [ $i -lt "$rounds" ]; do
    i=$((i + 1))
    printf '\rround %d of %d ' $i "$rounds" >&2
    if [ $((i % 2)) -eq 1 ]; then
        round direct completiond
    else
        round completiond direct
    fi
done
printf '\r' >&2

# ---- The tables ----

awk -v cpus="$(nproc)" '
function median(list, n, i, j, t) {
    for (i = 2; i <= n; i++)
        for (j = i; j > 1 && list[j - 1] > list[j]; j--) {
            t = list[j]; list[j] = list[j - 1]; list[j - 1] = t
        }
    low = list[1]; high = list[n]
    return n % 2 ? list[(n + 1) / 2] : (list[n / 2] + list[n / 2 + 1]) / 2
}
# Of one column, of the difference or of the quotient of two, each round by itself.
function of(name, how, list, i) {
    for (i = 1; i <= n_rounds; i++) {
        a = value["completiond", name, i]; b = value["direct", name, i]
        list[i] = how == "added" ? a - b : how == "ratio" ? a / b : value[how, name, i]
    }
    return median(list, n_rounds)
}
function spread(format, name, how, middle) {
    middle = of(name, how)
    return sprintf(format " (" format " to " format ")", middle, low, high)
}
{
    r = ++seen[$1, $2]
    if (r > n_rounds) n_rounds = r
    for (i = 3; i <= NF; i++) {
        split($i, pair, "=")
        value[$2, $1 "." pair[1], r] = pair[2]
    }
    value[$2, $1 ".cpu_us", r] = value[$2, $1 ".client_us", r] + value[$2, $1 ".daemon_us", r]
    if ($1 !~ /latency/ && value[$2, $1 ".upstream_busy", r] > busy)
        busy = value[$2, $1 ".upstream_busy", r]
}
function latency(title, name) {
    printf "| %s | %.1f | %.1f | %s | %s |\n", title, of(name ".p50_us", "direct"),
        of(name ".p50_us", "completiond"), spread("%.1f", name ".p50_us", "added"),
        spread("%.1f", name ".p99_us", "added")
}
function work(title, name, digits) {
    printf "| %s | %.0f | %.0f | %." digits "f | %." digits "f + %." digits "f | %s |\n", title,
        of(name ".per_s", "direct"), of(name ".per_s", "completiond"),
        of(name ".cpu_us", "direct"), of(name ".daemon_us", "completiond"),
        of(name ".client_us", "completiond"), spread("%.2f", name ".cpu_us", "ratio")
}
END {
    printf "%d CPUs, %d rounds: medians, and lowest to highest. ", cpus, n_rounds
    printf "The upstream was busy %.0f %% of the time at most.\n\n", busy * 100
    print "| one call at a time, us | direct p50 | completiond p50 | added p50 | added p99 |"
    print "|---|---|---|---|---|"
    latency("all on one CPU", "latency_one")
    latency("free", "latency_free")
    head = "per second: direct | completiond | CPU us each: direct | daemon + client | host CPU x direct |"
    print "\n| 64 calls in flight | calls " head "\n|---|---|---|---|---|---|"
    work("daemon and client on one CPU", "calls_one", 1)
    work("free", "calls_free", 1)
    print "\n| streams | chunks " head "\n|---|---|---|---|---|---|"
    work("64 as fast as they go, 32 events a write, one CPU", "burst_one", 2)
    work("the same, free", "burst_free", 2)
    work("200 of 50 chunks/s, one CPU", "paced_one", 2)
}' "$dir/results"

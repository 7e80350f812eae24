#!/bin/sh
# Measures completiond beside those who do the same work, in turns, and prints tables (Markdown).
#
#   sh tests/bench/run.sh [--only ROW,...] [--peers PEER,...] [--rounds N] [--results FILE]
#                         [--build DIR]
#
# Rows: latency, latency_free, calls, calls_free, burst, burst_free, paced; all of them if nothing
# is said. Peers: direct, nginx, haproxy, grpc_cpp, completiond, floor.
# --results keeps what was measured, and adds to what is there: the tables are of all of it.
#
# Builds the release preset first; --build takes what is built there instead. Everything is made in
# a directory of its own and ended on the way out.
set -eu

source=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
here=$source/tests/bench
rounds=5 build='' results=''
rows='latency latency_free calls calls_free burst burst_free paced'
peers=''
usage() {
    sed -n '4,5s/^# *//p' "$0" >&2
    exit 2
}
while [ $# -gt 1 ]; do
    case $1 in
    --rounds) rounds=$2 ;;
    --build) build=$2 ;;
    --results) results=$2 ;;
    --only) rows=$(echo "$2" | tr ',' ' ') ;;
    --peers) peers=$(echo "$2" | tr ',' ' ') ;;
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

dir=$(mktemp -d)
chmod 755 "$dir"
results=${results:-$dir/results}
touch "$results"
running=''
finish() {
    for pid in $running; do
        kill "$pid" 2>/dev/null || continue
        wait "$pid" 2>/dev/null || :
    done
    rm -rf "$dir"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# ---- The upstream and the peers ----

# shellcheck source=peers.sh
. "$here/peers.sh"

mkfifo "$dir/ready"
"$build/tests/bench/bench_upstream" --ready-fd 3 --interval-us 20000 3>"$dir/ready" &
upstream=$!
running=$upstream
read -r port <"$dir/ready"
base_url=http://127.0.0.1:$port/v1

wanted=${peers:-$all_peers}
peers=''
for peer in $wanted; do
    lacks=$(peer_lacks "$peer")
    if [ -n "$lacks" ]; then
        echo "$peer skipped: $lacks" >&2
        continue
    fi
    peer_start "$peer"
    peers="$peers $peer"
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
        taskset -acp "$cpus" "$pid" >/dev/null
    done
}

# ---- The rows: each measures one peer once ----

measure() { # ROW PEER CPUS OPTIONS...
    row=$1 peer=$2 cpus=$3
    shift 3
    peer_client "$peer"
    # shellcheck disable=SC2086 # a command and its options
    line=$(taskset -c "$cpus" $client --upstream "$upstream" "$@")
    echo "$row $peer $line" >>"$results"
}

# All on one CPU: waking up an idle one would hide everything else.
row_latency() {
    pin "$one" "$upstream" $(peer_pids "$1")
    measure latency "$1" "$one" --calls 4000 --warmup 500
}
row_latency_free() {
    pin "$all" "$upstream" $(peer_pids "$1")
    measure latency_free "$1" "$all" --calls 4000 --warmup 500
}

# What a host spends: client and daemon on one CPU, the upstream out of the way.
apart() { # PEER
    pin "$other" "$upstream"
    pin "$one" $(peer_pids "$1")
}
row_calls() {
    apart "$1"
    measure calls "$1" "$one" --calls 20000 --warmup 1000 --in-flight 64
}
row_calls_free() {
    pin "$all" "$upstream" $(peer_pids "$1")
    measure calls_free "$1" "$all" --calls 20000 --warmup 1000 --in-flight 64
}
row_burst() {
    apart "$1"
    measure burst "$1" "$one" --calls 256 --warmup 64 --in-flight 64 --chunks 1000
}
row_burst_free() {
    pin "$all" "$upstream" $(peer_pids "$1")
    measure burst_free "$1" "$all" --calls 256 --warmup 64 --in-flight 64 --chunks 1000
}
row_paced() {
    apart "$1"
    measure paced "$1" "$one" --calls 200 --in-flight 200 --chunks 100 --connections 4 \
        --model paced --steady
}

i=0
while [ $i -lt "$rounds" ]; do
    i=$((i + 1))
    for row in $rows; do
        for peer in $peers; do
            printf '\rround %d of %d: %s %s        ' $i "$rounds" "$row" "$peer" >&2
            "row_$row" "$peer"
        done
    done
    # The next round in another order.
    set -- $peers
    first=$1
    shift
    peers="$* $first"
done
printf '\r%60s\r' '' >&2

awk -v cpus="$(nproc)" -v peers="$all_peers" -f "$here/table.awk" "$results"

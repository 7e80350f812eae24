# The rows of the benchmarks: row_NAME measures one peer once, and adds to $results. Sourced by
# run.sh, which sets dir, results, build, upstream, base_url and the CPUs all, one and other.
# shellcheck shell=sh disable=SC2034,SC2046,SC2154 # variables of run.sh's, lists

known_rows='latency latency_free calls calls_free burst burst_free paced load memory cold hold
    scale workers'

pin() { # CPUS PID...
    cpus=$1
    shift
    for pid; do
        # A thread may end meanwhile.
        taskset -acp "$cpus" "$pid" >/dev/null 2>&1 || kill -0 "$pid"
    done
}

# Client and daemon on one CPU, the upstream out of the way.
pin_apart() { # PEER
    pin "$other" "$upstream"
    pin "$one" $(peer_pids "$1")
}

run_client() { # PEER CPUS OPTIONS...
    peer_client "$1"
    cpus=$2
    shift 2
    # shellcheck disable=SC2086 # a command and its options; exec: it takes the subshell's place
    ${exec:-} taskset -c "$cpus" $client --upstream "$upstream" "$@"
}

measure() { # ROW PEER CPUS OPTIONS...
    name=$1
    shift
    line=$(run_client "$@")
    echo "$name $1 $line" >>"$results"
}

# ---- Work ----

# All on one CPU: waking up an idle one would hide everything else.
row_latency() {
    pin "$one" "$upstream" $(peer_pids "$1")
    measure latency "$1" "$one" --calls 4000 --warmup 500
}

row_latency_free() {
    pin "$all" "$upstream" $(peer_pids "$1")
    measure latency_free "$1" "$all" --calls 4000 --warmup 500
}

row_calls() {
    pin_apart "$1"
    measure calls "$1" "$one" --calls 20000 --warmup 1000 --in-flight 64
}

row_calls_free() {
    pin "$all" "$upstream" $(peer_pids "$1")
    measure calls_free "$1" "$all" --calls 20000 --warmup 1000 --in-flight 64
}

row_burst() {
    pin_apart "$1"
    measure burst "$1" "$one" --calls 256 --warmup 64 --in-flight 64 --chunks 1000
}

row_burst_free() {
    pin "$all" "$upstream" $(peer_pids "$1")
    measure burst_free "$1" "$all" --calls 256 --warmup 64 --in-flight 64 --chunks 1000
}

row_paced() {
    pin_apart "$1"
    measure paced "$1" "$one" --calls 200 --in-flight 200 --chunks 100 --connections 4 \
        --model paced --steady
}

# The latency against the load.
row_load() {
    pin_apart "$1"
    for in_flight in 1 2 4 8 16 32 64 128 256; do
        measure "load_$in_flight" "$1" "$one" --calls 5000 --warmup 500 --in-flight $in_flight \
            --connections $(((in_flight + 99) / 100))
    done
}

# ---- Memory ----

rss_kib() { # PEER
    for pid in $(peer_pids "$1"); do
        sed -n 's/^VmRSS:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$pid/status"
    done | awk '{ n += $1 } END { print n + 0 }'
}

# Starts a client that holds what it has opened until release.
hold() { # PEER OPTIONS...
    rm -f "$dir/hold.in" "$dir/hold.out"
    mkfifo "$dir/hold.in" "$dir/hold.out"
    held_by=$1
    shift
    exec='exec' run_client "$held_by" "$all" --hold "$@" <"$dir/hold.in" >"$dir/hold.out" &
    holder=$!
    runs $holder
    exec 7>"$dir/hold.in"
    read -r held <"$dir/hold.out" && [ "$held" = held ]
}

release() {
    exec 7>&-
    end "$holder"
}

row_memory() {
    [ "$1" != direct ] && [ "$1" != floor ] || return 0
    peer_stop "$1"
    peer_start "$1"
    memory="idle_kib=$(rss_kib "$1")"
    for n in 10 100 1000 4000; do
        hold "$1" --calls $n --in-flight $n --connections $n --one-by-one
        memory="$memory connections_${n}_kib=$(rss_kib "$1")"
        release
    done
    peer_stop "$1"
    peer_start "$1"
    before=$(rss_kib "$1")
    hold "$1" --calls 1000 --in-flight 1000 --connections 10 --model silent --chunks 2
    memory="$memory streams_before_kib=$before streams_1000_kib=$(rss_kib "$1")"
    release
    echo "memory $1 $memory" >>"$results"
}

# ---- Cold start: from nothing, or from the first caller of systemd's socket, to the answer ----

row_cold() {
    [ "$1" != direct ] || return 0
    peer_stop "$1"
    rm -f "$dir/$1.sock"
    peer_configure "$1"
    pin "$all" "$upstream"
    cold=$(run_client "$1" "$all" --calls 1 --start "$(peer_command "$1")")
    echo "cold $1 $cold" >>"$results"
    rm -f "$dir/$1.sock"
    row_activated "$1"
    peer_start "$1"
}

row_activated() {
    setting=$(peer_activation "$1")
    [ -n "$setting" ] && command -v systemd-socket-activate >/dev/null || return 0
    # shellcheck disable=SC2046,SC2086 # lists of words
    systemd-socket-activate -l "$dir/$1.sock" -E "$setting" \
        sh -c "$(peer_command "$1" activated)" 2>/dev/null &
    activator=$!
    runs $activator
    until [ -S "$dir/$1.sock" ]; do sleep 0.02; done
    sleep 0.1 # it waits for callers
    cold=$(run_client "$1" "$all" --calls 1)
    echo "activated $1 $cold" >>"$results"
    end $activator
}

# ---- Streams of 20 tokens/s that one core holds ----

# Whether so many get their chunks in time, 99 of 100 in 50 ms; keeps what was seen.
holds() { # PEER STREAMS
    seen=$(run_client "$1" "$hold_cpu" --calls "$2" --in-flight "$2" --chunks 100 --steady \
        --connections $((($2 + 99) / 100)) --model paced-50000 2>/dev/null) || return 1
    echo "hold_$2 $1 $seen" >>"$results"
    echo "$seen" | tr ' ' '\n' | awk -F= -v n="$2" '
        { v[$1] = $2 }
        END { exit !(v["wall_s"] >= 2 && v["per_s"] >= 0.97 * 20 * n && v["delay_p99_us"] < 50000) }'
}

# Once more, in case that something else was going on.
holds_surely() { # PEER STREAMS
    holds "$@" || holds "$@"
}

# The daemon has a CPU for itself; its client shares another one with the upstream.
row_hold() {
    [ "$1" != floor ] || return 0
    pin_apart "$1"
    hold_cpu=$other
    [ "$1" != direct ] || hold_cpu=$one
    low=0 high=500 held=''
    while holds_surely "$1" $high; do
        low=$high held=$seen
        high=$((high * 3 / 2))
        [ $high -le 9000 ] || break
    done
    while [ $((high - low)) -gt $((low / 16 + 20)) ]; do
        middle=$(((low + high) / 2))
        if holds_surely "$1" $middle; then low=$middle held=$seen; else high=$middle; fi
    done
    echo "hold $1 streams=$low $held" >>"$results"
}

# ---- What a call costs when there is much else ----

scale_client() { # KIND N OPTIONS...
    echo "scale_$1_$2 completiond $(run_client completiond "$one" --calls 10000 --warmup 500 \
        --in-flight 64)" >>"$results"
}

queued_calls() {
    curl -s --unix-socket "$dir/completiond-metrics.sock" http://localhost/metrics |
        awk '$1 ~ /calls_queued/ { n += $2 } END { print n + 0 }'
}

# Holds N of a kind.
scale_up() { # KIND N
    groups=$((($2 + 89) / 90))
    case $1 in
    connections) hold completiond --calls "$2" --in-flight "$2" --connections "$2" --one-by-one ;;
    uids)
        # Only the bare client can change who it is.
        caller_of_completiond=bench_client
        hold completiond --calls "$2" --in-flight "$2" --connections "$2" --one-by-one --uids
        caller_of_completiond=''
        ;;
    streams)
        hold completiond --calls "$2" --in-flight "$2" --connections $groups --model silent \
            --chunks 2
        ;;
    queued)
        # One of them has the only place; nobody is ever answered.
        exec='exec' run_client completiond "$all" --calls $(($2 + 1)) --in-flight $(($2 + 1)) \
            --connections $groups --model stuck >/dev/null &
        holder=$!
        runs $holder
        until [ "$(queued_calls)" -eq "$2" ]; do
            kill -0 $holder 2>/dev/null || return 1
            sleep 0.1
        done
        ;;
    esac
}

row_scale() {
    [ "$1" = completiond ] || return 0
    for kind in connections uids streams queued; do
        if [ $kind = uids ] && [ "$(id -u)" != 0 ]; then
            note "scale, uids skipped: it takes root"
            continue
        fi
        # The daemon keeps descriptors for its upstreams: of 20,000 all callers together may have
        # 9,968, and one user 7,476.
        case $kind in
        connections) most=7000 ;;
        uids) most=9000 ;;
        *) most=10000 ;;
        esac
        for n in 10 100 1000 $most; do
            peer_stop completiond
            peer_start completiond
            pin_apart completiond
            if scale_up $kind "$n"; then
                scale_client $kind "$n"
            else
                note "scale, $n $kind: not held"
            fi
            release
        done
    done
}

# ---- More than one worker ----

# Clients, daemon and upstream are confined to as many CPUs as there are workers.
workers_run() { # WORKERS CPUS KIND OPTIONS...
    workers=$1 cpus=$2 kind=$3
    shift 3
    pin "$cpus" "$upstream" $(peer_pids completiond)
    peer_client completiond
    callers=''
    j=0
    while [ $j -lt "$workers" ]; do
        j=$((j + 1))
        # shellcheck disable=SC2086 # a command and its options
        taskset -c "$cpus" $client --upstream "$upstream" --connections 4 "$@" \
            >"$dir/workers.$j" &
        callers="$callers $!"
    done
    for caller in $callers; do wait "$caller"; done
    awk -v name="workers_${kind}_$workers" '
        { for (i = 1; i <= NF; i++) { split($i, p, "="); v[p[1]] += p[2]; n[p[1]]++ } }
        END {
            printf "%s completiond per_s=%.0f p50_us=%.1f client_us=%.3f upstream_busy=%.2f\n",
                name, v["per_s"], v["p50_us"] / NR, v["client_us"] / NR, v["upstream_busy"] / NR
        }' "$dir"/workers.[0-9]* >>"$results"
    rm -f "$dir"/workers.[0-9]*
}

row_workers() {
    [ "$1" = completiond ] || return 0
    if [ "$one" = "$other" ]; then
        note "workers skipped: there is one CPU"
        return 0
    fi
    for n in 1 2; do
        peer_stop completiond
        n_workers=$n
        if ! peer_start completiond; then
            note "workers skipped: the daemon takes no \"workers = $n\""
            n_workers=''
            peer_start completiond
            return 0
        fi
        cpus_of=$one
        [ $n -eq 1 ] || cpus_of=$one,$other
        workers_run $n "$cpus_of" calls --calls 20000 --warmup 1000 --in-flight 64
        workers_run $n "$cpus_of" burst --calls 128 --warmup 64 --in-flight 64 --chunks 1000
    done
    n_workers=''
    peer_stop completiond
    peer_start completiond
}

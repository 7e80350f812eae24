# The tables (Markdown) of what was measured: lines of "ROW PEER key=value...", one for each round.
# -v peers="..." is their order, -v cpus=N how many the machine has.
#
# Differences and ratios are taken within a round; then comes the median over the rounds, with the
# lowest and the highest.

function median(list, n, i, j, t) {
    for (i = 2; i <= n; i++)
        for (j = i; j > 1 && list[j - 1] > list[j]; j--) {
            t = list[j]; list[j] = list[j - 1]; list[j - 1] = t
        }
    low = list[1]; high = list[n]
    return n % 2 ? list[(n + 1) / 2] : (list[n / 2] + list[n / 2 + 1]) / 2
}

# Of a column; or of its difference from, or its quotient by, another peer's.
function of(row, peer, key, how, base, list, i, n, a, b) {
    n = n_rounds[row, peer]
    if (how && n_rounds[row, base] < n)
        n = n_rounds[row, base]
    for (i = 1; i <= n; i++) {
        a = value[row, peer, i, key]; b = value[row, base, i, key]
        list[i] = how == "-" ? a - b : how == "/" ? (b ? a / b : 0) : a
    }
    return n ? median(list, n) : "none"
}

function cell(format, row, peer, key, how, base, middle) {
    middle = of(row, peer, key, how, base)
    if (middle == "none" || (how && peer == base))
        return "–"
    return sprintf(format, middle) (how ? sprintf(" (" format " to " format ")", low, high) : "")
}

function title(peer) {
    return peer == "grpc_cpp" ? "gRPC C++" : peer
}

{
    if (!(($1, $2) in n_rounds))
        seen[$1] = 1
    r = ++n_rounds[$1, $2]
    for (i = 3; i <= NF; i++) {
        split($i, pair, "=")
        value[$1, $2, r, pair[1]] = pair[2]
    }
    value[$1, $2, r, "host_us"] = value[$1, $2, r, "client_us"] + value[$1, $2, r, "daemon_us"]
    if ($1 !~ /latency/ && $2 != "floor" && value[$1, $2, r, "upstream_busy"] > busy)
        busy = value[$1, $2, r, "upstream_busy"]
    if (r > most_rounds)
        most_rounds = r
}

function head(text, columns, n, line) {
    n = gsub(/\|/, "|", columns)
    line = "|---|"
    for (; n >= 0; n--)
        line = line "---|"
    print "\n| " text " | " columns " |\n" line
}

function latency(text, row, i) {
    if (!(row in seen))
        return
    head(text, "p50, us | p99, us | added p50 | added p99 | added p50 x nginx")
    for (i = 1; i <= n_peers; i++)
        if ((row, peer[i]) in n_rounds)
            printf "| %s | %s | %s | %s | %s | %s |\n", title(peer[i]),
                cell("%.1f", row, peer[i], "p50_us"), cell("%.1f", row, peer[i], "p99_us"),
                cell("%.1f", row, peer[i], "p50_us", "-", "direct"),
                cell("%.1f", row, peer[i], "p99_us", "-", "direct"),
                relative(row, peer[i], "p50_us")
}

# What is added to direct, beside what nginx adds.
function relative(row, p, key, list, i, n, middle) {
    n = n_rounds[row, p]
    if (p == "direct" || n_rounds[row, "direct"] < n || n_rounds[row, "nginx"] < n)
        return "–"
    for (i = 1; i <= n; i++)
        list[i] = (value[row, p, i, key] - value[row, "direct", i, key]) / \
            (value[row, "nginx", i, key] - value[row, "direct", i, key])
    middle = median(list, n)
    return sprintf("%.2f (%.2f to %.2f)", middle, low, high)
}

function work(text, row, unit, digits, delays, i, f, line) {
    if (!(row in seen))
        return
    f = "%." digits "f"
    head(text, unit " per s | CPU us each: client | daemon | host x direct" \
         (delays ? " | delay p50, us | p99 | added p50 | added p99" : ""))
    for (i = 1; i <= n_peers; i++) {
        if (!((row, peer[i]) in n_rounds))
            continue
        line = sprintf("| %s | %s | %s | %s | %s |", title(peer[i]),
            cell("%.0f", row, peer[i], "per_s"), cell(f, row, peer[i], "client_us"),
            peer[i] == "direct" ? "–" : cell(f, row, peer[i], "daemon_us"),
            cell("%.2f", row, peer[i], "host_us", "/", "direct"))
        if (delays)
            line = line sprintf(" %s | %s | %s | %s |",
                cell("%.1f", row, peer[i], "delay_p50_us"),
                cell("%.1f", row, peer[i], "delay_p99_us"),
                cell("%.1f", row, peer[i], "delay_p50_us", "-", "direct"),
                cell("%.1f", row, peer[i], "delay_p99_us", "-", "direct"))
        print line
    }
}

END {
    n_peers = split(peers, peer, " ")
    printf "%d CPUs, %d rounds: medians, and lowest to highest. ", cpus, most_rounds
    printf "The upstream was busy %.0f %% of the time at most.\n", busy * 100
    latency("one call at a time, all on one CPU", "latency")
    latency("the same, free", "latency_free")
    work("64 calls in flight, client and daemon on one CPU", "calls", "calls", 1)
    work("the same, free", "calls_free", "calls", 1)
    work("64 streams as fast as they go, 32 events a write, one CPU", "burst", "chunks", 2)
    work("the same, free", "burst_free", "chunks", 2)
    work("200 streams of 50 chunks/s, one CPU", "paced", "chunks", 2, 1)
}

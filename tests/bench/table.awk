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

function rounds(row, peer) {
    return (row, peer) in n_rounds ? n_rounds[row, peer] : 0
}

# Of a column: as it is (how ""); less another peer's ("-"); by another peer's ("/"); or what it is
# more than direct, by what another peer is more ("more"). "": there is none.
function of(row, peer, key, how, base, list, i, n, a, b, d) {
    n = rounds(row, peer)
    if (how && rounds(row, base) < n)
        n = rounds(row, base)
    if (how == "more" && rounds(row, "direct") < n)
        n = rounds(row, "direct")
    for (i = 1; i <= n; i++) {
        a = value[row, peer, i, key]; b = value[row, base, i, key]
        if (how == "more") {
            d = value[row, "direct", i, key]
            a -= d; b -= d
        }
        if (how == "-")
            a -= b
        else if (how)
            a = b ? a / b : 0
        list[i] = a
    }
    return n ? median(list, n) : ""
}

function cell(format, row, peer, key, how, base, middle) {
    middle = of(row, peer, key, how, base)
    if (middle == "" || (how && peer == base) || (how == "more" && peer == "direct"))
        return "–"
    if (!how || low == high)
        return sprintf(format, middle)
    return sprintf(format " (" format " to " format ")", middle, low, high)
}

function title(peer) {
    return peer == "grpc_cpp" ? "gRPC C++" : peer
}

function head(text, columns, n, line) {
    n = gsub(/\|/, "|", columns)
    line = "|---|"
    for (; n >= 0; n--)
        line = line "---|"
    print "\n| " text " | " columns " |\n" line
}

{
    seen[$1] = 1
    measured[$2] = 1
    r = ++n_rounds[$1, $2]
    for (i = 3; i <= NF; i++) {
        split($i, pair, "=")
        value[$1, $2, r, pair[1]] = pair[2]
    }
    value[$1, $2, r, "host_us"] = value[$1, $2, r, "client_us"] + value[$1, $2, r, "daemon_us"]
    value[$1, $2, r, "first_ms"] = value[$1, $2, r, "first_us"] / 1000
    if ($1 == "hold") {
        value[$1, $2, r, "client_busy"] = value[$1, $2, r, "client_us"] * value[$1, $2, r, "per_s"] / 1e4
        value[$1, $2, r, "daemon_busy"] = value[$1, $2, r, "daemon_us"] * value[$1, $2, r, "per_s"] / 1e4
        value[$1, $2, r, "upstream_percent"] = value[$1, $2, r, "upstream_busy"] * 100
        value[$1, $2, r, "others_busy"] = \
            value[$1, $2, r, "client_busy"] + value[$1, $2, r, "upstream_percent"]
    }
    if ($1 == "memory") {
        value[$1, $2, r, "idle_mib"] = value[$1, $2, r, "idle_kib"] / 1024
        value[$1, $2, r, "connection_kib"] = \
            (value[$1, $2, r, "connections_1000_kib"] - value[$1, $2, r, "connections_10_kib"]) / 990
        value[$1, $2, r, "stream_kib"] = \
            (value[$1, $2, r, "streams_1000_kib"] - value[$1, $2, r, "streams_before_kib"]) / 1000
    }
    if ($1 ~ /^(calls|burst|paced)/ && $2 != "floor" && value[$1, $2, r, "upstream_busy"] > busy)
        busy = value[$1, $2, r, "upstream_busy"]
    if (r > most_rounds && $1 !~ /^hold_/)
        most_rounds = r
}

# ---- One line for each kind of work ----

function overview_line(text, format, row, key, how, base, i, line) {
    if (!(row in seen))
        return
    line = "| " text " |"
    for (i = 1; i <= n_peers; i++)
        if (peer[i] != "direct")
            line = line " " cell(format, row, peer[i], key, how, base) " |"
    print line
}

# Only who was measured.
function choose_peers(i, n) {
    for (i = 1; i <= n_peers; i++)
        if (peer[i] in measured)
            peer[++n] = peer[i]
    n_peers = n
}

function overview(i, columns) {
    for (i = 1; i <= n_peers; i++)
        if (peer[i] != "direct")
            columns = columns (columns ? " | " : "") title(peer[i])
    head("x direct unless said", columns)
    overview_line("host CPU per unary call, 64 in flight", "%.2f", "calls", "host_us", "/", "direct")
    overview_line("added latency, one call at a time, one CPU, p50, us", "%.1f", "latency", "p50_us",
        "-", "direct")
    overview_line("the same, x nginx", "%.2f", "latency", "p50_us", "more", "nginx")
    overview_line("host CPU per streamed chunk, 32 a write", "%.2f", "burst", "host_us", "/", "direct")
    overview_line("host CPU per chunk, 200 streams x 50 tokens/s, one CPU", "%.2f", "paced",
        "host_us", "/", "direct")
    overview_line("added delay of such a chunk, p50, us", "%.1f", "paced", "delay_p50_us", "-", "direct")
    overview_line("RSS idle, MiB", "%.1f", "memory", "idle_mib")
    overview_line("RSS per idle connection, KiB", "%.1f", "memory", "connection_kib")
    overview_line("RSS per open stream, KiB", "%.1f", "memory", "stream_kib")
    overview_line("cold start to the first answer, ms", "%.1f", "cold", "first_ms")
    overview_line("the same, with systemd's socket, ms", "%.1f", "activated", "first_ms")
    overview_line("streams of 20 tokens/s on one core, p99 of delay < 50 ms", "%.0f", "hold", "streams")
}

# ---- Tables of one kind of work, a line for each peer ----

function latency(text, row, i) {
    if (!(row in seen))
        return
    head(text, "p50, us | p99, us | added p50 | added p99 | added p50 x nginx")
    for (i = 1; i <= n_peers; i++)
        if (rounds(row, peer[i]))
            printf "| %s | %s | %s | %s | %s | %s |\n", title(peer[i]),
                cell("%.1f", row, peer[i], "p50_us"), cell("%.1f", row, peer[i], "p99_us"),
                cell("%.1f", row, peer[i], "p50_us", "-", "direct"),
                cell("%.1f", row, peer[i], "p99_us", "-", "direct"),
                cell("%.2f", row, peer[i], "p50_us", "more", "nginx")
}

function work(text, row, unit, digits, delays, i, f, line) {
    if (!(row in seen))
        return
    f = "%." digits "f"
    head(text, unit " per s | CPU us each: client | daemon | host x direct" \
         (delays ? " | delay p50, us | p99 | added p50 | added p99" : ""))
    for (i = 1; i <= n_peers; i++) {
        if (!rounds(row, peer[i]))
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

function loads(i, j, n, list, line, columns) {
    if (!("load_1" in seen))
        return
    n = split("1 2 4 8 16 32 64 128 256", list, " ")
    for (j = 1; j <= n; j++)
        columns = columns (columns ? " | " : "") list[j]
    head("calls in flight: p50 of the latency, us", columns)
    for (i = 1; i <= n_peers; i++) {
        if (!rounds("load_1", peer[i]))
            continue
        line = "| " title(peer[i]) " |"
        for (j = 1; j <= n; j++)
            line = line " " cell("%.0f", "load_" list[j], peer[i], "p50_us") " |"
        print line
    }
}

function memory(i, j, n, list, line) {
    if (!("memory" in seen))
        return
    n = split("idle_kib connections_10_kib connections_100_kib connections_1000_kib " \
              "connections_4000_kib streams_1000_kib", list, " ")
    head("RSS, KiB", "idle | 10 connections | 100 | 1,000 | 4,000 | 1,000 streams")
    for (i = 1; i <= n_peers; i++) {
        if (!rounds("memory", peer[i]))
            continue
        line = "| " title(peer[i]) " |"
        for (j = 1; j <= n; j++)
            line = line " " cell("%.0f", "memory", peer[i], list[j]) " |"
        print line
    }
}

function hold(i, p) {
    if (!("hold" in seen))
        return
    head("streams of 20 tokens/s, p99 of delay < 50 ms", "streams | delay p50, us | p99 | " \
         "CPU of daemon or proxy busy, % | CPU of client and upstream")
    for (i = 1; i <= n_peers; i++) {
        p = peer[i]
        if (rounds("hold", p))
            printf "| %s | %s | %s | %s | %s | %s |\n", title(p), cell("%.0f", "hold", p, "streams"),
                cell("%.0f", "hold", p, "delay_p50_us"), cell("%.0f", "hold", p, "delay_p99_us"),
                cell("%.0f", "hold", p, p == "direct" ? "client_busy" : "daemon_busy"),
                cell("%.0f", "hold", p, p == "direct" ? "upstream_percent" : "others_busy")
    }
}

function scale_line(text, kind, i, n, list, row, line) {
    n = split("10 100 1000 7000 9000 10000", list, " ")
    for (i = 1; i <= n; i++) {
        row = "scale_" kind "_" list[i]
        if (row in seen)
            line = line (list[i] > 1000 && list[i] < 10000 ? " " list[i] ": " : " ") \
                cell("%.1f", row, "completiond", "host_us") " |"
    }
    if (line)
        print "| " text " |" line
}

function scale() {
    if (!("scale_connections_10" in seen))
        return
    head("completiond: host CPU us per call, 64 in flight, beside others", "10 | 100 | 1000 | 10000")
    scale_line("idle connections", "connections")
    scale_line("users, a connection each", "uids")
    scale_line("open streams", "streams")
    scale_line("queued calls", "queued")
}

function workers_line(text, kind) {
    if ("workers_" kind "_1" in seen && "workers_" kind "_2" in seen) {
        for (i = 1; i <= n_rounds["workers_" kind "_2", "completiond"]; i++)
            value["workers_" kind "_2", "completiond", i, "ratio"] = \
                value["workers_" kind "_2", "completiond", i, "per_s"] / \
                value["workers_" kind "_1", "completiond", i, "per_s"]
        printf "| %s | %s | %s | %s |\n", text,
            cell("%.0f", "workers_" kind "_1", "completiond", "per_s"),
            cell("%.0f", "workers_" kind "_2", "completiond", "per_s"),
            cell("%.2f", "workers_" kind "_2", "completiond", "ratio")
    }
}

function workers() {
    if (!("workers_calls_1" in seen))
        return
    head("all on as many CPUs as workers: per second", "1 worker | 2 workers | ratio")
    workers_line("unary calls", "calls")
    workers_line("streamed chunks", "burst")
}

END {
    n_peers = split(peers, peer, " ")
    printf "%d CPUs, %d rounds: medians, and lowest to highest. ", cpus, most_rounds
    printf "The upstream was busy %.0f %% of the time at most.\n", busy * 100
    choose_peers()
    if ("calls" in seen || "latency" in seen || "burst" in seen || "paced" in seen ||
        "memory" in seen || "cold" in seen || "hold" in seen)
        overview()
    latency("one call at a time, all on one CPU", "latency")
    latency("the same, free", "latency_free")
    work("64 calls in flight, client and daemon on one CPU", "calls", "calls", 1)
    work("the same, free", "calls_free", "calls", 1)
    work("64 streams as fast as they go, 32 events a write, one CPU", "burst", "chunks", 2)
    work("the same, free", "burst_free", "chunks", 2)
    work("200 streams of 50 chunks/s, one CPU", "paced", "chunks", 2, 1)
    loads()
    memory()
    hold()
    scale()
    workers()
}

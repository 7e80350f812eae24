#!/usr/bin/env python3
"""Draws what run.sh measured: python3 plot.py RESULTS FILE.svg

Medians over the rounds: CPU time per call and per chunk by peer, latency against load, memory
against connections. What was not measured is left out.
"""
import math
import statistics
import sys
from xml.sax.saxutils import escape

PEERS = {  # in this order: what is written, and in which colour
    "direct": ("direct", "#444444"),
    "nginx": ("nginx", "#009e73"),
    "haproxy": ("haproxy", "#e69f00"),
    "grpc_cpp": ("gRPC C++", "#cc79a7"),
    "completiond": ("completiond", "#0072b2"),
    "completiond_bare": ("bare gRPC", "#56b4e9"),
    "floor": ("floor", "#999999"),
}
WIDTH, MARGIN, GAP = 960, 24, 40
BAR, BAR_GAP = 16, 8
INK, FAINT = "#222222", "#dddddd"


def read(path):
    """{(row, peer): {key: median}}"""
    lists = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            row, peer, *pairs = line.split()
            for pair in pairs:
                key, _, number = pair.partition("=")
                lists.setdefault((row, peer), {}).setdefault(key, []).append(float(number))
    return {
        which: {key: statistics.median(numbers) for key, numbers in keys.items()}
        for which, keys in lists.items()
    }


class Drawing:
    def __init__(self):
        self.parts = []

    def text(self, x, y, text, size=12, anchor="start", weight="normal", colour=INK):
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
            f'font-weight="{weight}" fill="{colour}">{escape(text)}</text>'
        )

    def rect(self, x, y, width, height, colour, opacity=1.0):
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}" '
            f'fill="{colour}" fill-opacity="{opacity}"/>'
        )

    def line(self, points, colour, width=1.0):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}" '
            f'stroke-linejoin="round"/>'
        )

    def dot(self, x, y, colour):
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')

    def write(self, path, height):
        with open(path, "w", encoding="utf-8") as out:
            out.write(
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" '
                f'viewBox="0 0 {WIDTH} {height:.0f}" font-family="sans-serif">\n'
                f'<rect width="100%" height="100%" fill="white"/>\n'
            )
            out.write("\n".join(self.parts))
            out.write("\n</svg>\n")


def number(value):
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def bars(drawing, data, row, title, x, y, width):
    """CPU time of client and daemon, one on the other. Returns the height."""
    label = 86
    drawing.text(x, y, title, 13, weight="bold")
    values = {p: data[row, p] for p in PEERS if (row, p) in data}
    most = max(v["client_us"] + v["daemon_us"] for v in values.values())
    scale = (width - label - 46) / most
    y += 14
    for peer, v in values.items():
        name, colour = PEERS[peer]
        client, daemon = v["client_us"] * scale, v["daemon_us"] * scale
        bold = "bold" if peer == "completiond" else "normal"
        drawing.text(x + label - 8, y + BAR - 4, name, anchor="end", weight=bold)
        drawing.rect(x + label, y, client, BAR, colour, 0.45)
        drawing.rect(x + label + client, y, daemon, BAR, colour)
        total = number(v["client_us"] + v["daemon_us"])
        drawing.text(x + label + client + daemon + 5, y + BAR - 4, total, weight=bold)
        y += BAR + BAR_GAP
    return 14 + len(values) * (BAR + BAR_GAP)


def ticks_log(low, high):
    """1, 2 and 5 of each power of ten between the two; fewer if they would be many."""
    for steps in ((1, 2, 5), (1,)):
        ticks = [
            s * 10.0**p
            for p in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            for s in steps
            if low <= s * 10.0**p <= high
        ]
        if len(ticks) <= 9:
            break
    return ticks


def ticks_linear(high):
    step = 10.0 ** math.floor(math.log10(high))
    for divide in (5, 2, 1):
        if high / (step / divide) <= 6:
            step /= divide
            break
    return [i * step for i in range(int(high / step) + 1)]


def curves(drawing, series, title, x_title, y_title, x, y, width, height, x_log, y_log):
    """series: {peer: [(x, y), ...]}"""
    xs = [px for points in series.values() for px, _ in points]
    ys = [py for points in series.values() for _, py in points]
    left, top, bottom = x + 52, y + 30, y + height - 34
    right = x + width - 8

    def scaled(value, low, high, log, start, end):
        if log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return start + (value - low) / (high - low) * (end - start)

    x_low, x_high = (min(xs) if x_log else 0), max(xs) * (1 if x_log else 1.05)
    y_low, y_high = (min(ys) / 1.2 if y_log else 0), max(ys) * (1.2 if y_log else 1.05)

    def at_x(value):
        return scaled(value, x_low, x_high, x_log, left, right)

    def at_y(value):
        return scaled(value, y_low, y_high, y_log, bottom, top)

    drawing.text(x, y, title, 13, weight="bold")
    drawing.text(x, y + 17, y_title, 11, colour="#666666")
    drawing.text(right, bottom + 31, x_title, 11, "end", colour="#666666")
    for tick in ticks_log(y_low, y_high) if y_log else ticks_linear(y_high):
        drawing.line([(left, at_y(tick)), (right, at_y(tick))], FAINT)
        drawing.text(left - 6, at_y(tick) + 4, f"{tick:,.0f}", 11, "end")
    for tick in ticks_log(x_low, x_high) if x_log else ticks_linear(x_high):
        drawing.text(at_x(tick), bottom + 15, f"{tick:,.0f}", 11, "middle")
    for peer, points in series.items():
        colour = PEERS[peer][1]
        places = [(at_x(px), at_y(py)) for px, py in points]
        drawing.line(places, colour, 3 if peer == "completiond" else 1.5)
        for place in places:
            drawing.dot(*place, colour)


def legend(drawing, peers, x, y):
    for peer in peers:
        name, colour = PEERS[peer]
        drawing.rect(x, y - 9, 18, 4, colour)
        drawing.text(x + 24, y - 2, name)
        x += 44 + 7.2 * len(name)


def by_load(data):
    series = {}
    for peer in PEERS:
        rows = [v for (row, p), v in data.items() if p == peer and row.startswith("load_")]
        rows.sort(key=lambda v: v["p50_us"])
        if rows:
            series[peer] = [(v["per_s"], v["p50_us"]) for v in rows]
    return series


def by_connections(data):
    series = {}
    for peer in PEERS:
        v = data.get(("memory", peer), {})
        points = sorted(
            (int(key.split("_")[1]), kib / 1024)
            for key, kib in v.items()
            if key.startswith("connections_")
        )
        if points:
            series[peer] = points
    return series


def by_streams(data):
    series = {}
    for peer in PEERS:
        points = sorted(
            (int(row.split("_")[1]), v["delay_p99_us"] / 1000)
            for (row, p), v in data.items()
            if p == peer and row.startswith("hold_")
        )
        if len(points) > 1:
            series[peer] = points
    return series


def main():
    data = read(sys.argv[1])
    drawing = Drawing()
    y = MARGIN + 8

    works = [
        ("calls", "a unary call, 64 in flight"),
        ("burst", "a streamed chunk, 32 a write"),
        ("paced", "a chunk, 200 streams of 50/s"),
    ]
    works = [w for w in works if any(row == w[0] for row, _ in data)]
    if works:
        drawing.text(MARGIN, y, "CPU time, µs: client (light) and daemon or proxy", 15, weight="bold")
        y += 28
        width = (WIDTH - 2 * MARGIN - 2 * GAP) / 3
        heights = [
            bars(drawing, data, row, title, MARGIN + i * (width + GAP), y, width)
            for i, (row, title) in enumerate(works)
        ]
        y += max(heights) + 36

    graphs = [
        (by_load(data), "Latency against load", "calls per second", "p50, µs", False, True),
        (by_connections(data), "Memory against connections", "idle connections", "RSS, MiB", True, False),
        (by_streams(data), "Delay against streams of 20 tokens/s", "streams", "p99, ms", False, True),
    ]
    graphs = [g for g in graphs if g[0]]
    if graphs:
        peers = [p for p in PEERS if any(p in g[0] for g in graphs)]
        legend(drawing, peers, MARGIN, y)
        y += 28
        columns = min(len(graphs), 2)
        width = (WIDTH - 2 * MARGIN - (columns - 1) * GAP) / columns
        for i, (series, title, x_title, y_title, x_log, y_log) in enumerate(graphs):
            left = MARGIN + i % 2 * (width + GAP)
            curves(drawing, series, title, x_title, y_title, left, y, width, 300, x_log, y_log)
            if i % 2 == 1 or i == len(graphs) - 1:
                y += 320
    drawing.write(sys.argv[2], y + MARGIN / 2)


if __name__ == "__main__":
    main()

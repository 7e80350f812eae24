#!/usr/bin/env python3
"""How calls wait for servers that several hosts share, when each host chooses for itself.

A model, not a measurement: hosts get calls at random (Poisson), servers work on a few at once and
let the others wait in order, and how long a call takes is lognormal, as completions are: most are
short, some are long. Each host knows of its own calls alone. "one balancer" knows all of them.

    bench_fleet_sim.py [--servers N] [--load PART] [--slow] [--calls N] [--rounds N]

prints a Markdown table: how long calls waited for a server to begin, in parts of the mean time that
a call's work takes.
"""
import argparse
import heapq
import math
import random

SLOTS = 8     # calls that a server works on at once
SIGMA = 1.0   # of the service time's logarithm: the mean is 1
HOSTS = (1, 4, 16, 64)


def pick_least(counts, order):
    best = None
    for at in order:
        if best is None or counts[at] < counts[best]:
            best = at
    return best


def least_from(first, n):
    return [(first + i) % n for i in range(n)]


def least_chance(counts, turn, rng):
    n = len(counts)
    return pick_least(counts, least_from(rng.randrange(n), n))


def least_turns(counts, turn, rng):
    return pick_least(counts, least_from(turn, len(counts)))


def least_first(counts, turn, rng):
    return pick_least(counts, range(len(counts)))


def two_choices(counts, turn, rng):
    a, b = rng.sample(range(len(counts)), 2)
    return b if counts[b] < counts[a] else a


def turns(counts, turn, rng):
    return turn


def at_random(counts, turn, rng):
    return rng.randrange(len(counts))


CHOICES = (
    ("least, chance among equals: completiond", least_chance),
    ("least, turns among equals", least_turns),
    ("least, the first of equals", least_first),
    ("the better of two at random", two_choices),
    ("turns", turns),
    ("at random", at_random),
)


class Server:
    def __init__(self, speed):
        self.speed = speed
        self.n_busy = 0
        self.waiting = []


def simulate(choose, n_hosts, seed, options):
    """The waits of all calls but the first tenth."""
    rng = random.Random(seed)
    choice_rng = random.Random(seed + 1000)
    servers = [Server(1.0) for _ in range(options.servers)]
    if options.slow:
        servers[0].speed = 0.5
    capacity = SLOTS * sum(s.speed for s in servers)
    rate = options.load * capacity
    counts = [[0] * options.servers for _ in range(n_hosts)]
    turn = [choice_rng.randrange(options.servers) for _ in range(n_hosts)]
    events = []  # (when, number, host, server): calls that end
    waits = []
    now = 0.0

    def work(server, call, at):
        begun, host, effort = call
        servers[server].n_busy += 1
        waits.append(at - begun)
        heapq.heappush(events, (at + effort / servers[server].speed, len(waits), host, server))

    for _ in range(options.calls):
        now += rng.expovariate(rate)
        while events and events[0][0] <= now:
            ended, _, host, server = heapq.heappop(events)
            s = servers[server]
            counts[host][server] -= 1
            s.n_busy -= 1
            if s.waiting:
                work(server, s.waiting.pop(0), ended)
        host = rng.randrange(n_hosts)
        server = choose(counts[host], turn[host], choice_rng)
        turn[host] = (server + 1) % options.servers
        counts[host][server] += 1
        call = (now, host, math.exp(rng.gauss(-SIGMA * SIGMA / 2, SIGMA)))
        if servers[server].n_busy < SLOTS:
            work(server, call, now)
        else:
            servers[server].waiting.append(call)
    return sorted(waits[len(waits) // 10:])


def cell(choose, n_hosts, options):
    """Means over the rounds."""
    mean = p99 = 0.0
    for seed in range(options.rounds):
        waits = simulate(choose, n_hosts, seed, options)
        mean += sum(waits) / len(waits) / options.rounds
        p99 += waits[int(len(waits) * 0.99)] / options.rounds
    return "%.2f / %.2f" % (mean, p99)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=60000, help="a round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--servers", type=int, default=4)
    parser.add_argument("--load", type=float, default=0.8)
    parser.add_argument("--slow", action="store_true", help="one of them is half as fast")
    options = parser.parse_args()

    print("| waits, mean / p99 | " + " | ".join(
        "%d host%s" % (n, "" if n == 1 else "s") for n in HOSTS) + " |")
    print("|---|" + "---|" * len(HOSTS))
    best = cell(least_chance, 1, options)
    print("| one balancer, least for all | " + " | ".join([best] * len(HOSTS)) + " |")
    for name, choose in CHOICES:
        cells = [cell(choose, n, options) for n in HOSTS]
        print("| %s | %s |" % (name, " | ".join(cells)))


if __name__ == "__main__":
    main()

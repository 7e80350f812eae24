#!/usr/bin/env python3
"""Several hosts, each with its own completiond, in front of servers that they share.

Started by fleet.sh, in namespaces of its own: every host and every server has a network of its own
on a bridge, so that one can be killed or unplugged. Compares a balancer in front of the servers
(haproxy, as one would set it up) with an [upstream] that has them all.

    bench_fleet.py BUILD [--hosts N] [--seconds N]     prints Markdown tables
    bench_fleet.py --serve ADDRESS SPEED SEED          is one server
"""
import argparse
import asyncio
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

SERVERS = 4
SLOTS = 8         # calls that a server works on at once
MEAN_S = 0.1      # of what a call's work takes; lognormal
SIGMA = 1.0
PORT = 8000
LEAST, TURNS = 8001, 8002  # the balancer's
CAPACITY = SERVERS * SLOTS / MEAN_S


# ---- A server ----

async def serve(address, speed, seed):
    rng = random.Random(seed)
    slots = asyncio.Semaphore(SLOTS)

    async def on_connection(reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = 0
                for line in head.split(b"\r\n"):
                    if line.lower().startswith(b"content-length:"):
                        length = int(line[15:])
                await reader.readexactly(length)
                if not head.startswith(b"GET"):  # not the balancer's question whether it is well
                    work = rng.lognormvariate(math.log(MEAN_S) - SIGMA * SIGMA / 2, SIGMA) / speed
                    async with slots:
                        await asyncio.sleep(work)
                    body = json.dumps({
                        "id": "c", "object": "text_completion", "created": 1, "model": "m",
                        "choices": [{"index": 0, "text": "%.6f" % work, "logprobs": None,
                                     "finish_reason": "stop"}]}).encode()
                else:
                    body = b"{}"
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                             b"Content-Length: %d\r\n\r\n" % len(body) + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(on_connection, address, PORT, backlog=1024)
    async with server:
        await server.serve_forever()


# ---- The network ----

def address_of(name):
    """10.77.0.1 is the balancer's; servers and hosts come behind."""
    if name == "balancer":
        return "10.77.0.1"
    return "10.77.0.%d" % ((100 if name[0] == "s" else 10) + int(name[1:]))


def ip(*arguments):
    subprocess.run(("ip",) + arguments, check=True)


def in_network(name, *command):
    return ("ip", "netns", "exec", name) + command


def build_network(names):
    ip("link", "add", "bridge", "type", "bridge")
    ip("link", "set", "bridge", "up")
    for name in names:
        ip("netns", "add", name)
        ip("link", "add", "to-" + name, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("link", "set", "to-" + name, "master", "bridge", "up")
        ip("-n", name, "address", "add", address_of(name) + "/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", name, "link", "set", "lo", "up")


# ---- Who runs in it ----

class Fleet:
    def __init__(self, build, n_hosts, directory):
        self.build = build
        self.directory = directory
        self.hosts = ["h%d" % (i + 1) for i in range(n_hosts)]
        self.servers = ["s%d" % (i + 1) for i in range(SERVERS)]
        self.running = {}
        build_network(["balancer"] + self.servers + self.hosts)

    def path(self, name):
        return os.path.join(self.directory, name)

    def spawn(self, name, command, **options):
        self.running[name] = subprocess.Popen(command, **options)

    def end(self, name, how=signal.SIGTERM):
        process = self.running.pop(name)
        process.send_signal(how)
        process.wait()

    def end_all(self):
        for name in reversed(list(self.running)):
            self.end(name)

    def start_server(self, name, speed=1.0):
        self.spawn(name, in_network(name, sys.executable, __file__, "--serve", address_of(name),
                                    str(speed), name[1:]))

    def start_balancer(self):
        lines = ["global", "  maxconn 4000", "defaults", "  mode http", "  timeout connect 1s",
                 "  timeout client 10m", "  timeout server 10m", "  retries 3",
                 "  option redispatch 1", "  retry-on conn-failure empty-response",
                 "  option httpchk GET /health", "  default-server check inter 1s fall 2 rise 1"]
        for port, how in ((LEAST, "leastconn"), (TURNS, "roundrobin")):
            lines += ["listen l%d" % port, "  bind %s:%d" % (address_of("balancer"), port),
                      "  balance %s" % how]
            lines += ["  server %s %s:%d" % (s, address_of(s), PORT) for s in self.servers]
        with open(self.path("haproxy.cfg"), "w") as f:
            f.write("\n".join(lines) + "\n")
        self.spawn("balancer", in_network("balancer", "haproxy", "-db", "-f",
                                          self.path("haproxy.cfg")))

    def start_daemon(self, host, urls):
        with open(self.path(host + ".conf"), "w") as f:
            f.write("[daemon]\nlog_level = warning\n[upstream fleet]\nauth = none\n"
                    "connect_timeout = 1s\nmax_concurrent = 10000\nmax_queued = 10000\n")
            f.writelines("base_url = http://%s/v1\n" % url for url in urls)
            f.write("[policy *]\nmax_concurrent = 10000\nmax_queued = 10000\n")
        with open(self.path(host + ".log"), "a") as log:
            self.spawn(host, in_network(
                host, self.build + "/daemon/completiond", "--config", self.path(host + ".conf"),
                "--listen", self.path(host + ".sock")), stderr=log)
        while not os.path.exists(self.path(host + ".sock")):
            time.sleep(0.01)

    def wait_for_servers(self):
        for s in self.servers:
            url = "http://%s:%d/health" % (address_of(s), PORT)
            while subprocess.run(in_network("balancer", "curl", "-s", "-o", "/dev/null",
                                            url)).returncode:
                time.sleep(0.05)


def measure(fleet, urls, load, seconds, slow=None, during=()):
    """during: (when, what to do). Returns the calls as (wait in s, status)."""
    calls = []
    for s in fleet.servers:
        fleet.start_server(s, 0.5 if s == slow else 1.0)
    fleet.wait_for_servers()
    fleet.start_balancer()
    for host in fleet.hosts:
        fleet.start_daemon(host, urls)
    time.sleep(1.5)  # the balancer's first checks
    rate = load * CAPACITY / len(fleet.hosts)
    callers = []
    for number, host in enumerate(fleet.hosts):
        with open(fleet.path(host + ".errors"), "a") as errors:
            callers.append(subprocess.Popen(
                [fleet.build + "/tests/bench/bench_fleet_callers", fleet.path(host + ".sock"),
                 str(rate), str(seconds), str(number)],
                stdout=subprocess.PIPE, stderr=errors, text=True))
    begun = time.monotonic()
    for when, what in during:
        time.sleep(max(0, begun + when - time.monotonic()))
        what()
    for caller in callers:
        for line in caller.communicate()[0].splitlines():
            at, wait, status = line.split()
            if float(at) >= 1:
                calls.append((float(wait) / 1e3, status))
    fleet.end_all()
    return calls


def row(name, calls, seconds):
    waits = sorted(wait for wait, status in calls if status == "OK")
    errors = sum(status != "OK" for _, status in calls)

    def part(p):
        return waits[min(len(waits) - 1, int(len(waits) * p))] * 1e3

    print("| %s | %.0f | %.0f | %.0f | %.0f | %.0f | %d of %d |" % (
        name, len(waits) / (seconds - 1), part(0.5), part(0.9), part(0.99), waits[-1] * 1e3,
        errors, len(calls)), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build")
    parser.add_argument("--hosts", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=20)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as directory:
        fleet = Fleet(options.build, options.hosts, directory)
        balancer = address_of("balancer")
        ways = (
            ("haproxy, round robin", ["%s:%d" % (balancer, TURNS)]),
            ("haproxy, least connections", ["%s:%d" % (balancer, LEAST)]),
            ("endpoints of completiond", ["%s:%d" % (address_of(s), PORT) for s in fleet.servers]),
        )
        third = options.seconds / 3
        kill = ((third, lambda: fleet.end("s1", signal.SIGKILL)),
                (2 * third, lambda: fleet.start_server("s1")))
        unplug = ((third, lambda: ip("link", "set", "to-s1", "down")),
                  (2 * third, lambda: ip("link", "set", "to-s1", "up")))
        scenes = (
            ("all are well, load 80 %", 0.8, {}),
            ("one is half as fast, load 70 %", 0.7, {"slow": "s1"}),
            ("one is killed, and is back after %.0f s, load 55 %%" % third, 0.55,
             {"during": kill}),
            ("one is unplugged for %.0f s, load 55 %%" % third, 0.55, {"during": unplug}),
        )
        try:
            for title, load, more in scenes:
                print("\n| %s | calls/s | wait p50, ms | p90 | p99 | longest | errors |\n"
                      "|---|---|---|---|---|---|---|" % title, flush=True)
                for name, urls in ways:
                    row(name, measure(fleet, urls, load, options.seconds, **more),
                        options.seconds)
        finally:
            fleet.end_all()
            for host in fleet.hosts:
                for kind in (".errors", ".log"):
                    with open(fleet.path(host + kind)) as f:
                        sys.stderr.write(f.read())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        asyncio.run(serve(sys.argv[2], float(sys.argv[3]), int(sys.argv[4])))
    else:
        main()

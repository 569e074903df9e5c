"""Requests per second and the cost of a streamed line, of two checkouts of this project in one run.

    python benchmarks/requests.py [--against CHECKOUT] [--rounds 5]

Both daemons run at the same time, over the backend in memory, and are asked in turns; what counts on a noisy machine is
the median of the round-by-round ratios. Without ``--against`` the same checkout runs twice, which shows the noise.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent.parent
CALL = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "rkllm.is_running", "params": [None]}).encode() + b"\n"
LINES = 3000


class Daemon:
    """A daemon of one checkout."""

    def __init__(self, checkout, directory):
        self.path = os.path.join(directory, "s")
        options = ["--backend", "scripted", "--model", "any", "--listen", f"unix:{self.path}"]
        twistd = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile="]
        self._process = subprocess.Popen(
            [*twistd, "rkllm", *options],
            stdout=subprocess.PIPE,
            text=True,
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout)},
        )
        while "Server started successfully" not in self._process.stdout.readline():
            pass

    def connect(self):
        client = socket.socket(socket.AF_UNIX)
        client.connect(self.path)
        return client

    def stop(self):
        self._process.terminate()
        self._process.wait()


def sequential(daemon, clients, seconds=0.7):
    """Requests per second of so many clients, each waiting for its answer before it asks again."""
    selector, sockets = selectors.DefaultSelector(), [daemon.connect() for _ in range(clients)]
    for client in sockets:
        selector.register(client, selectors.EVENT_READ)
        client.sendall(CALL)
    count, end = 0, time.perf_counter() + seconds
    began = time.perf_counter()
    while time.perf_counter() < end:
        for key, _ in selector.select():
            key.fileobj.recv(4096)
            count += 1
            key.fileobj.sendall(CALL)
    elapsed = time.perf_counter() - began
    for client in sockets:
        client.close()
    return count / elapsed


def pipelined(daemon, requests=5000):
    """Requests per second of one client that sends them all without waiting."""
    client = daemon.connect()
    lines = client.makefile("rb")
    ids = b"".join(CALL.replace(b'"id": 1', b'"id": %d' % number) for number in range(requests))
    began = time.perf_counter()
    client.sendall(ids)
    for _ in range(requests):
        lines.readline()
    elapsed = time.perf_counter() - began
    client.close()
    return requests / elapsed


def streamed(daemon):
    """Lines per second of a stream."""
    client = daemon.connect()
    lines = client.makefile("rb")
    params = [{"prompt_input": "word " * LINES}]
    client.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "rkllm.run", "params": params}).encode() + b"\n")
    lines.readline()
    began = time.perf_counter()
    for _ in range(LINES):
        lines.readline()
    elapsed = time.perf_counter() - began
    client.close()
    return LINES / elapsed


MEASURES = {
    "1 client, one after another": lambda daemon: sequential(daemon, 1),
    "10 clients": lambda daemon: sequential(daemon, 10),
    "100 clients": lambda daemon: sequential(daemon, 100),
    "1 client, pipelined": pipelined,
    "lines of a stream": streamed,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, default=HERE, help="the other checkout")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        this, against = Daemon(HERE, one), Daemon(arguments.against.resolve(), other)
        print(f"{'per second':28} {'this':>9} {'other':>9} {'this/other':>11}")
        for name, measure in MEASURES.items():
            pairs = []
            for number in range(arguments.rounds):
                order = (this, against) if number % 2 else (against, this)
                rates = {daemon: measure(daemon) for daemon in order}
                pairs.append((rates[this], rates[against]))
            ratio = statistics.median(first / second for first, second in pairs)
            first, second = (statistics.median(column) for column in zip(*pairs, strict=True))
            print(f"{name:28} {first:9.0f} {second:9.0f} {ratio:11.2f}")
        this.stop()
        against.stop()


if __name__ == "__main__":
    main()

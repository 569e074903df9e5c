"""Start and memory: of a daemon that has just started, and of a thousand connections that do nothing."""

from __future__ import annotations

import os
import signal
import time

from benchmarks import servers
from benchmarks.client import Client
from benchmarks.rounds import Rounds, Sample, takeTurns
from benchmarks.rows import Measurement, Row
from benchmarks.servers import Server, memory
from benchmarks.stage import BARE, DAEMON, ISOLATED, Stage

CONNECTIONS = 1000


class Kind:
    """A side: a kind of server that each turn starts anew."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.name = name
        self._stage = stage

    def start(self) -> Server:
        """A new one, without a model."""
        if self.name == BARE:
            return servers.bareLines(self._stage.directory, name="new bare")
        isolation = "process" if self.name == ISOLATED else "none"
        return servers.daemon(self._stage.built, self._stage.directory, isolation, f"new {self.name}")


def start(stage: Stage) -> Rounds:
    """From the start of the process to its listening, and what it then has in memory; no model is loaded."""

    def measure(kind: Kind) -> Sample:
        server = kind.start()
        try:
            return Sample({"start": server.started, "idle": memory(server.pid)})
        finally:
            server.stop()

    return takeTurns([Kind(stage, name) for name in (BARE, DAEMON, ISOLATED)], stage.rounds, measure)


def connections(stage: Stage) -> Rounds:
    """The memory that a connection takes which has asked once and says nothing more."""
    count = stage.number(CONNECTIONS)

    def measure(kind: Kind) -> Sample:
        server = kind.start()
        try:
            return Sample({"each": eachConnection(server, count)})
        finally:
            server.stop()

    return takeTurns([Kind(stage, name) for name in (BARE, DAEMON, ISOLATED)], stage.rounds, measure)


def eachConnection(server: Server, count: int) -> float:
    """The memory of each of so many connections, in kB; what the first few need once is not counted."""
    first = [connection(server) for _ in range(10)]
    before = memory(server.pid)
    clients = [connection(server) for _ in range(count)]
    each = (memory(server.pid) - before) * 1024 / count
    for client in (*first, *clients):
        client.close()
    return each


def connection(server: Server) -> Client:
    """A connection that has asked once."""
    client = Client(server.path)
    client.ask("rkllm.is_running", None)
    return client


def child(stage: Stage) -> Rounds:
    """The memory of the process that has the model; the stand-in's model takes none."""

    def measure(server: Server) -> Sample:
        return Sample({"parent": memory(server.pid), "child": sum(memory(pid) for pid in server.pids()[1:])})

    return takeTurns([stage.server(ISOLATED)], 1, measure)


def recovery(stage: Stage) -> Rounds:
    """From the death of the child process to the next answer of the model. Every turn has a new daemon."""

    def measure(kind: Kind) -> Sample:
        server = kind.start()
        try:
            servers.loadModel(server, stage.built)
            return Sample({"seconds": recoverySeconds(server)})
        finally:
            server.stop()

    return takeTurns([Kind(stage, ISOLATED)], stage.rounds, measure)


def recoverySeconds(server: Server) -> float:
    """Kill the child process, and ask the model until it answers."""
    with Client(server.path) as client:
        for pid in server.pids()[1:]:
            os.kill(pid, signal.SIGSEGV)
        began = time.perf_counter()
        # The call that finds the child dying fails with it (W-CODES, backend lost); the next one waits for the new.
        while "error" in client.ask("rkllm.get_kv_cache_size", None):
            pass
        return time.perf_counter() - began


SIZES = (
    Measurement(
        "start",
        "a daemon that has just started, without a model",
        start,
        (
            Row("start to listening", "start", "s", DAEMON, None, 0.4),
            Row("the same, isolated", "start", "s", ISOLATED, None, 0.4),
            Row("resident memory, idle", "idle", "MB", DAEMON, None, 40),
            Row("the same, isolated", "idle", "MB", ISOLATED, None, 40),
        ),
    ),
    Measurement(
        "idle",
        f"{CONNECTIONS} connections that have asked once and say nothing more",
        connections,
        (
            Row("resident memory of an idle connection", "each", "kB", DAEMON, None, 2),
            Row("the same, bare", "each", "kB", BARE),
        ),
    ),
    Measurement(
        "child",
        "the child process that has the model, after all that was measured before",
        child,
        (Row("resident memory of the child process", "child", "MB", ISOLATED),),
    ),
    Measurement(
        "recovery",
        "the child process dies of a signal; until the model answers again, which takes no time to load",
        recovery,
        (Row("seconds without a model after a crash", "seconds", "s", ISOLATED),),
    ),
)

"""What a measurement has at hand: the servers, started when they are first asked for, and the load generator."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from benchmarks import servers
from benchmarks.building import Built
from benchmarks.load import Load
from benchmarks.servers import Server

DAEMON, ISOLATED, OTHER = "daemon", "isolated", "other"
ECHO, BARE, AT_ONCE, TOKENS = "echo", "bare", "at once", "tokens"


class Stage:
    """The servers, the load generator, and how long to measure.

    Args:
        built: What was compiled.
        directory: For sockets.
        rounds: How many rounds a measurement has.
        effort: 1 for full length; less for shorter turns.
        other: A checkout whose daemon takes part too.

    Attributes:
        built: The same.
        directory: The same.
        rounds: The same.
        load: The generator.
        other: The same.
    """

    def __init__(self, built: Built, directory: Path, rounds: int, effort: float, other: Path | None = None) -> None:
        self.built = built
        self.directory = directory
        self.rounds = rounds
        self.other = other
        self.load = Load(built.load)
        self._effort = effort
        self._started: dict[str, Server] = {}
        cpus = sorted(os.sched_getaffinity(0))
        self.everywhere, self.first, self.last = set(cpus), {cpus[0]}, {cpus[-1]}

    def seconds(self, most: float) -> float:
        """How long a turn is."""
        return most * self._effort

    def number(self, most: int) -> int:
        """How many of something a turn has."""
        return max(1, round(most * self._effort))

    def server(self, name: str) -> Server:
        """A server, started if it is not."""
        if name not in self._started:
            self._started[name] = self._makers()[name]()
        return self._started[name]

    def sides(self, *names: str) -> list[Server]:
        """Servers, and the other checkout's daemon where the daemon is one of them."""
        more = (OTHER,) if self.other and DAEMON in names else ()
        return [self.server(name) for name in (*names, *more)]

    def close(self) -> None:
        """End all servers."""
        for server in self._started.values():
            server.stop()

    def _makers(self) -> dict[str, Callable[[], Server]]:
        built, directory = self.built, self.directory
        return {
            ECHO: lambda: servers.echo(built, directory),
            BARE: lambda: servers.bareLines(directory),
            AT_ONCE: lambda: servers.bareLines(directory, "--at-once", name=AT_ONCE),
            TOKENS: lambda: servers.bareTokens(built, directory),
            DAEMON: lambda: self._daemon(DAEMON, "none"),
            ISOLATED: lambda: self._daemon(ISOLATED, "process"),
            OTHER: lambda: self._daemon(OTHER, "none", self.other or servers.HERE),
        }

    def _daemon(self, name: str, isolation: str, checkout: Path = servers.HERE) -> Server:
        server = servers.daemon(self.built, self.directory, isolation, name, checkout=checkout)
        servers.loadModel(server, self.built)
        return server

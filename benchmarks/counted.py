"""Servers under callgrind, which counts their instructions while it is told to."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import servers
from benchmarks.building import Built
from benchmarks.servers import Server


class Counted:
    """A server under callgrind.

    Args:
        start: Starts it behind the words of a command that it is given.
        output: Where callgrind writes; each count has a file of its own, with a number behind the name.
    """

    def __init__(self, start: Callable[[list[str]], Server], output: Path) -> None:
        self._output = output
        self._dumps = 0
        valgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={output}"]
        self.server = start(valgrind)
        self.path = self.server.path

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what the server does while the context lasts; `instructions` then knows."""
        self._order("instrumentation on")
        yield
        self._order("dump")
        self._order("instrumentation off")
        self._dumps += 1

    @property
    def instructions(self) -> int:
        """What was counted the last time."""
        found = re.search(r"^totals: (\d+)", Path(f"{self._output}.{self._dumps}").read_text(), re.MULTILINE)
        if found is None:
            raise RuntimeError(f"{self._output}.{self._dumps} has no totals")
        return int(found[1])

    def _order(self, order: str) -> None:
        subprocess.run(["vgdb", f"--pid={self.server.pid}", *order.split()], check=True, capture_output=True)

    def stop(self) -> None:
        """End it."""
        self.server.stop()


def countedServers(built: Built, directory: Path) -> dict[str, Callable[[], Counted]]:
    """What starts each server that is counted, by what is counted of it."""

    def loaded(prefix: list[str]) -> Server:
        server = servers.daemon(built, directory, "none", "counted", prefix=prefix)
        servers.loadModel(server, built)
        return server

    starts: dict[str, Callable[[list[str]], Server]] = {
        "bare call": lambda prefix: servers.bareLines(directory, prefix=prefix),
        "daemon call": loaded,
        "bare token": lambda prefix: servers.bareTokens(built, directory, prefix=prefix),
        "daemon token": loaded,
        "bare batch": lambda prefix: servers.bareTokens(built, directory, prefix=prefix),
        "daemon batch": loaded,
    }

    def started(name: str) -> Counted:
        return Counted(starts[name], directory / f"{name.replace(' ', '-')}.callgrind")

    return {name: lambda name=name: started(name) for name in starts}  # type: ignore[misc]  # mypy infers no lambda with a default

"""Commands of tests, in memory and as processes, and what puts all back to where it was."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.processes import OnTerminal, OpenTerminal, SocketServer, started


@pytest.fixture(autouse=True)
def _sigint() -> Iterator[None]:
    """A command in memory takes SIGINT over."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _nothingLeft() -> Iterator[None]:
    """No process outlives a test that failed."""
    yield
    while started:
        with started.pop() as process:
            process.kill()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SocketServer]:
    server = SocketServer(tmp_path / "s")
    yield server
    server.close()


@pytest.fixture
def onTerminal(server: SocketServer) -> Iterator[OpenTerminal]:
    opened: list[OnTerminal] = []

    def make(*argv: str, **environ: str) -> OnTerminal:
        opened.append(OnTerminal(server.path, *argv, **environ))
        return opened[-1]

    yield make
    for terminal in opened:
        terminal.close()

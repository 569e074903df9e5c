"""The command in memory: its streams, its reactor and its daemon are a test's."""

from __future__ import annotations

import io
import signal
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.testing import MemoryReactorClock

from rkllm_twisted.cli.arguments import parse
from rkllm_twisted.cli.program import readInput, start
from rkllm_twisted.cli.terminal import Terminal
from tests.spoken_server import SpokenServer, outcome

SOCKET = "/run/test.sock"
ACKNOWLEDGED = {"success": True, "message": ""}


class Stream(io.StringIO):
    """Standard output or error, a terminal or not; ``break_`` makes its reader go."""

    def __init__(self, isTty: bool = False) -> None:
        super().__init__()
        self._isTty = isTty
        self._isBroken = False

    def isatty(self) -> bool:
        return self._isTty

    def break_(self) -> None:
        self._isBroken = True

    def write(self, text: str) -> int:
        if self._isBroken:
            raise BrokenPipeError
        return super().write(text)


class Stdin:
    """Standard input."""

    def __init__(self, content: bytes = b"", isTty: bool = False) -> None:
        self.buffer = io.BytesIO(content)
        self._isTty = isTty

    def isatty(self) -> bool:
        return self._isTty


class Reactor(MemoryReactorClock):
    """Calls from threads are called when time passes."""

    def callFromThread(self, function: Callable[[], object]) -> None:
        self.callLater(0, function)


class Cli:
    """A command under way, up to its connection to the daemon."""

    def __init__(
        self,
        *argv: str,
        stdin: bytes = b"",
        isTty: bool = False,
        environ: Mapping[str, str] | None = None,
        lines: list[Any] | None = None,
    ) -> None:
        environ = {"TERM": "xterm", **(environ or {})}
        self.stdout, self.stderr = Stream(isTty), Stream(isTty)
        self.reactor = Reactor()
        self.prompts: list[str] = []
        self._lines = lines or []
        options = parse([*argv, "--socket", SOCKET], environ)
        readInput(options, Stdin(stdin))
        self.done = start(self.reactor, options, Terminal(self.stdout, self.stderr, environ), self._readLine)
        outcome(self.done)  # from here on nothing that it ends with counts as unhandled
        _, self.factory, *_ = self.reactor.unixClients[0]

    def connect(self) -> SpokenServer:
        return SpokenServer(self.factory.buildProtocol(None))

    def _readLine(self, prompt: str) -> str:
        self.prompts.append(prompt)
        line = self._lines.pop(0) if self._lines else EOFError()
        if isinstance(line, BaseException):
            raise line
        return line() if callable(line) else line

    def turn(self) -> None:
        """The reactor goes once round."""
        self.reactor.advance(0)

    def interrupt(self) -> None:
        signal.raise_signal(signal.SIGINT)
        self.turn()

    @property
    def out(self) -> str:
        return self.stdout.getvalue()

    @property
    def err(self) -> str:
        return self.stderr.getvalue()

    @property
    def status(self) -> int | None:
        """The exit status; None while it goes on."""
        seen = outcome(self.done)
        if not seen:
            return None
        assert isinstance(seen[0], SystemExit), seen
        return seen[0].code  # type: ignore[return-value]


def connected(*argv: str, **options: Any) -> tuple[Cli, SpokenServer]:
    """A command, connected to its daemon."""
    cli = Cli(*argv, **options)
    return cli, cli.connect()


def withoutModel(*argv: str, **options: Any) -> tuple[Cli, SpokenServer]:
    """A command whose first run was refused, because no model is loaded."""
    cli, server = connected(*argv, **options)
    server.refuse(server.request()["id"], -32000, "model not initialized")
    return cli, server

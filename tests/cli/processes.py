"""The command as a process, and a daemon on a real socket whose lines a test says.

Nothing here waits for time to pass: each step waits for what the other side has done, and fails after `PATIENCE`.
"""

from __future__ import annotations

import json
import os
import pty
import queue
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE = 30.0
"""Seconds."""
COMMAND = [sys.executable, "-m", "rkllm_twisted.cli"]
ROOT = str(Path(__file__).parents[2])


class SocketServer:
    """One connection on a Unix socket, answered by the test in its own thread.

    Requests wait in a queue for the test, which says the lines.
    """

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._requests: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            self._connection, _ = self._listener.accept()
            for line in self._connection.makefile("rb"):
                self._requests.put(json.loads(line))
        except OSError:
            pass
        self._requests.put(None)

    def request(self) -> dict[str, Any]:
        request = self._requests.get(timeout=PATIENCE)
        assert request is not None, "the command has closed its connection"
        return request

    def expect(self, method: str) -> Any:
        """The id of the next request, or for a notification its params."""
        request = self.request()
        assert request["method"] == method
        return request["id"] if "id" in request else request["params"]

    def answer(self, id: object, *results: object) -> None:
        self._send(*({"jsonrpc": "2.0", "id": id, "result": result} for result in results))

    def refuse(self, id: object, code: int, message: str, **data: object) -> None:
        self._send({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message, "data": data}})

    def _send(self, *messages: object) -> None:
        assert self._connection is not None
        self._connection.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in messages))

    def waitUntilLeft(self) -> None:
        """Until the command has closed its connection."""
        while self._requests.get(timeout=PATIENCE) is not None:
            pass

    def hangUp(self) -> None:
        assert self._connection is not None
        self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._listener.close()


def environment(path: str, **more: str) -> dict[str, str]:
    # Without PYTHONUNBUFFERED and the like: how Python writes through is part of what is tested.
    kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR" and not name.startswith("PYTHON")}
    return {**kept, "PYTHONPATH": ROOT, "RKLLM_UDS_PATH": path, "TERM": "xterm", **more}


def ran(*arguments: str | bytes, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command that needs no daemon to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        env={**os.environ, **environ},
    )


started: list[subprocess.Popen[bytes]] = []
"""What a test has started; what it leaves is killed after it."""


class Piped:
    """The command with its streams in pipes."""

    def __init__(self, path: str, *argv: str, stdin: int | None = subprocess.DEVNULL) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *argv],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(path),
            cwd="/",
            # Whoever runs the tests in the background has SIGINT ignored, and so would the command.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        started.append(self.process)

    def feed(self, data: bytes) -> None:
        """Write all of standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.close()
        self.process.stdin = None  # or `end` would flush it

    def read(self, expected: str) -> None:
        """Read exactly this from standard output."""
        assert self.process.stdout is not None
        wanted, seen = expected.encode(), b""
        while len(seen) < len(wanted):
            readable, *_ = select.select([self.process.stdout], [], [], PATIENCE)
            assert readable, f"only {seen!r} came"
            piece = os.read(self.process.stdout.fileno(), len(wanted) - len(seen))
            assert piece, f"the output ended after {seen!r}"
            seen += piece
        assert seen == wanted

    def end(self) -> tuple[int, str, str]:
        """The exit status, what is left of standard output, and standard error."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out.decode(), err.decode()


class OnTerminal:
    """The command on a terminal of its own."""

    def __init__(self, path: str, *argv: str, **environ: str) -> None:
        self._terminal, inner = pty.openpty()
        self._inner = inner  # kept open: the terminal's settings are read after the command has ended
        self.before = termios.tcgetattr(inner)
        self.seen = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", _ON_TERMINAL, *COMMAND, *argv],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
            env=environment(path, **environ),
            cwd="/",
        )

    def expect(self, text: str) -> str:
        """Wait until this is shown; returns, and forgets, everything up to it."""
        limit = time.monotonic() + PATIENCE
        while text not in self.seen:
            readable, *_ = select.select([self._terminal], [], [], max(0.0, limit - time.monotonic()))
            assert readable, f"{text!r} is not in {self.seen!r}"
            self.seen += os.read(self._terminal, 65536).decode()
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def expectPrompt(self) -> None:
        """Wait until a line is read: what is shown last is the prompt, and the process sleeps until a key comes."""
        self.expect("> ")
        limit = time.monotonic() + PATIENCE
        while Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
            assert time.monotonic() < limit
            os.sched_yield()

    def type(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def end(self) -> tuple[int, str]:
        """The exit status, and what was shown since the last that was waited for."""
        status = self.process.wait(PATIENCE)
        while select.select([self._terminal], [], [], 0)[0]:
            self.seen += os.read(self._terminal, 65536).decode()
        return status, self.seen

    def settings(self) -> list[Any]:
        return termios.tcgetattr(self._inner)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._terminal)
        os.close(self._inner)


# Makes standard input the controlling terminal, so that Ctrl-C typed there is a signal, and becomes the command.
_ON_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


OpenTerminal = Callable[..., OnTerminal]
"""Runs the command with some arguments on a terminal of its own, connected to the test's server."""

"""Real signals to the command as a process."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import termios
import time
from pathlib import Path

import pytest

from tests.cli.processes import PATIENCE, Piped, SocketServer
from tests.spoken_server import finish, token


def test_interrupt(server: SocketServer) -> None:
    command = Piped(server.path, "run", "hi")
    id = server.expect("rkllm.run")
    server.answer(id, token("a"))
    command.read("a")
    command.process.send_signal(signal.SIGINT)
    assert server.expect("$/cancelRequest") == {"id": id}
    assert command.process.poll() is None
    server.answer(id, token("b"), finish("abort"))
    assert command.end() == (130, "b\n", "")


def test_theSecondInterruptLeavesAtOnce(server: SocketServer) -> None:
    """Of a server that never sends the last line."""
    command = Piped(server.path, "run", "hi")
    server.answer(server.expect("rkllm.run"), token("a"))
    command.read("a")
    command.process.send_signal(signal.SIGINT)
    server.expect("$/cancelRequest")
    command.process.send_signal(signal.SIGINT)
    assert command.end() == (130, "", "")


def test_interruptWhileThePromptIsRead(tmp_path: Path) -> None:
    command = Piped(str(tmp_path / "nothing"), "run", "-", stdin=subprocess.PIPE)
    assert command.process.stdin is not None
    os.write(command.process.stdin.fileno(), b"x")
    _waitUntilRead(command.process.stdin.fileno())
    command.process.send_signal(signal.SIGINT)
    assert command.end() == (130, "", "")


def _waitUntilRead(pipe: int) -> None:
    limit = time.monotonic() + PATIENCE
    while fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4) != b"\0" * 4:
        assert time.monotonic() < limit
        os.sched_yield()


@pytest.mark.parametrize("argv", [["run", "hi"], ["call", "rkllm.run", "[]"]])
def test_termination(server: SocketServer, argv: list[str]) -> None:
    """Quiet, and at once; the daemon cancels what a connection leaves (W-GONE)."""
    command = Piped(server.path, *argv, "--socket", server.path)
    server.answer(server.expect("rkllm.run"), token("a"))
    command.read("a" if argv[0] == "run" else json.dumps(token("a")) + "\n")
    command.process.terminate()
    assert command.end() == (128 + signal.SIGTERM, "", "")
    server.waitUntilLeft()

"""The command as a process: real signals, pipes and terminals, against a small server on a real socket.

Nothing here waits for time to pass: each step waits for what the other side has done, and fails after `PATIENCE`.
"""

from __future__ import annotations

import fcntl
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.spoken_server import finish, token

PATIENCE = 30.0
COMMAND = [sys.executable, "-m", "rkllm_twisted.cli"]
ROOT = str(Path(__file__).parents[1])


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

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._listener.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SocketServer]:
    server = SocketServer(tmp_path / "s")
    yield server
    server.close()


def environment(path: str, **more: str) -> dict[str, str]:
    # Without PYTHONUNBUFFERED and the like: how Python writes through is part of what is tested.
    kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR" and not name.startswith("PYTHON")}
    return {**kept, "PYTHONPATH": ROOT, "RKLLM_UDS_PATH": path, "TERM": "xterm", **more}


_started: list[subprocess.Popen[bytes]] = []


@pytest.fixture(autouse=True)
def _nothingLeft() -> Iterator[None]:
    """No process outlives a test that failed."""
    yield
    while _started:
        with _started.pop() as process:
            process.kill()


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
        _started.append(self.process)

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


@pytest.fixture
def onTerminal(server: SocketServer) -> Iterator[Callable[..., OnTerminal]]:
    opened: list[OnTerminal] = []

    def make(*argv: str, **environ: str) -> OnTerminal:
        opened.append(OnTerminal(server.path, *argv, **environ))
        return opened[-1]

    yield make
    for terminal in opened:
        terminal.close()


@pytest.mark.parametrize("argv", [["run", "hi"], ["chat"], ["status"], ["call", "rkllm.is_running"]])
def test_noDaemon(tmp_path: Path, argv: list[str]) -> None:
    path = str(tmp_path / "nothing")
    status, out, err = Piped(path, *argv).end()
    assert (status, out) == (1, "")
    assert err == (
        f"rkllm: no daemon answers at {path} (no such file or directory); "
        f"start one: twistd -n rkllm --listen unix:{path}\n"
    )


def test_aSocketThatNobodyServes(tmp_path: Path) -> None:
    path = str(tmp_path / "stale")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    status, _, err = Piped(path, "status").end()
    assert status == 1
    assert "(connection refused)" in err
    assert err.count("\n") == 1


def test_runStreamsToAPipe(server: SocketServer) -> None:
    """Each piece is there before the next is sent, and nothing for terminals is among them."""
    command = Piped(server.path, "run", "hi", "--stats", "--model", "m")
    server.refuse(server.expect("rkllm.run"), -32000, "model not initialized")
    server.answer(server.expect("rkllm.init"), {"success": True, "message": ""})
    id = server.expect("rkllm.run")
    for text in ("Hé", "llo"):
        server.answer(id, token(text))
        command.read(text)
    server.answer(id, finish())
    status, out, err = command.end()
    assert (status, out) == (0, "\n")
    assert err.startswith("prefill 10 tokens in 20 ms (500.0 tokens/s)")
    assert "\x1b" not in err
    assert err.count("\n") == 1


def test_thePromptFromStandardInput(server: SocketServer) -> None:
    command = Piped(server.path, "run", stdin=subprocess.PIPE)
    assert command.process.stdin is not None
    command.process.stdin.write("Grüße".encode())
    command.process.stdin.close()
    command.process.stdin = None
    request = server.request()
    assert request["params"][1]["prompt_input"] == "Grüße"
    server.answer(request["id"], finish())
    assert command.end() == (0, "", "")


@pytest.mark.parametrize(
    ("argv", "method", "message"),
    [
        (["run", "hi"], "rkllm.run", "rkllm: busy: 64 wait (-32001)\n"),
        (["status"], "server.status", "rkllm: busy: 64 wait (-32001)\n"),
        (["call", "rkllm.x", "[1]"], "rkllm.x", 'rkllm: busy: 64 wait (-32001) {"queue_length":64}\n'),
    ],
)
def test_anErrorIsOneLine(server: SocketServer, argv: list[str], method: str, message: str) -> None:
    command = Piped(server.path, *argv)
    server.refuse(server.expect(method), -32001, "busy: 64 wait", queue_length=64, retryable=True)
    assert command.end() == (1, "", message)


def test_aPathThatIsTooLong(tmp_path: Path) -> None:
    """Twisted tells the traceback of the socket, and nobody that the connection has failed."""
    path = str(tmp_path / ("x" * 200))
    status, out, err = Piped(path, "status").end()
    assert (status, out) == (2, "")
    assert err == f"rkllm: --socket {path}: the path of a socket has at most 107 bytes, this one has {len(path)}\n"


def test_wrongUsage(tmp_path: Path) -> None:
    status, out, err = Piped(str(tmp_path / "nothing"), "call", "m", "{").end()
    assert (status, out) == (2, "")
    assert err.startswith("rkllm: the params are not JSON")


def test_callReadsItsParamsAndPrintsEachLine(server: SocketServer) -> None:
    command = Piped(server.path, "call", "rkllm.run", "-", stdin=subprocess.PIPE)
    assert command.process.stdin is not None
    command.process.stdin.write(b'[null,\n {"prompt_input": "hi"}]')
    command.process.stdin.close()
    command.process.stdin = None
    request = server.request()
    assert request["params"] == [None, {"prompt_input": "hi"}]
    server.answer(request["id"], token("a"))
    command.read(json.dumps(token("a")) + "\n")
    server.answer(request["id"], finish())
    assert command.end() == (0, json.dumps(finish()) + "\n", "")


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


def test_theReaderOfTheOutputGoes(server: SocketServer) -> None:
    command = Piped(server.path, "run", "hi")
    id = server.expect("rkllm.run")
    server.answer(id, token("a"))
    command.read("a")
    assert command.process.stdout is not None
    command.process.stdout.close()
    server.answer(id, token("b"))
    server.waitUntilLeft()
    assert command.process.stderr is not None
    assert command.process.stderr.read() == b""
    assert command.process.wait(PATIENCE) == 141


def test_theDaemonGoes(server: SocketServer) -> None:
    command = Piped(server.path, "run", "hi")
    server.answer(server.expect("rkllm.run"), token("a"))
    command.read("a")
    assert server._connection is not None
    server._connection.shutdown(socket.SHUT_RDWR)
    assert command.end() == (1, "\n", "rkllm: connection to the server lost: the server closed it\n")


def test_onATerminal(server: SocketServer, onTerminal: Callable[..., OnTerminal]) -> None:
    """The progress line comes and goes, tokens are shown as they come, Ctrl-C leaves the terminal as it was."""
    terminal = onTerminal("run", "hi", "--model", "m")
    server.refuse(server.expect("rkllm.run"), -32000, "model not initialized")
    id = server.expect("rkllm.init")
    terminal.expect("loading m … 0 s")
    server.answer(id, {"success": True, "message": ""})
    id = server.expect("rkllm.run")
    server.answer(id, token("one"))
    assert terminal.expect("one").endswith("\r\x1b[Kone")
    server.answer(id, token(" two"))
    terminal.expect(" two")
    terminal.type("\x03")
    server.expect("$/cancelRequest")
    server.answer(id, token(" three"), finish("abort"))
    status, rest = terminal.end()
    assert status == 130
    assert rest.replace("^C", "") == " three\r\n"
    assert terminal.settings() == terminal.before


def test_theSecondCtrlCLeavesTheTerminalSane(server: SocketServer, onTerminal: Callable[..., OnTerminal]) -> None:
    terminal = onTerminal("run", "hi")
    server.answer(server.expect("rkllm.run"), token("one"))
    terminal.expect("one")
    terminal.type("\x03")
    server.expect("$/cancelRequest")
    terminal.type("\x03")
    assert terminal.end()[0] == 130
    assert terminal.settings() == terminal.before


def test_noColourWhereNoneIsWanted(server: SocketServer, onTerminal: Callable[..., OnTerminal]) -> None:
    terminal = onTerminal("run", "hi", "--stats", NO_COLOR="1")
    server.answer(server.expect("rkllm.run"), token("a"), finish())
    status, shown = terminal.end()
    assert status == 0
    assert "prefill 10 tokens" in shown
    assert "\x1b" not in shown


def test_chat(server: SocketServer, onTerminal: Callable[..., OnTerminal]) -> None:
    """Lines can be edited; Ctrl-C at the prompt clears, in an answer ends it; Ctrl-D leaves."""
    terminal = onTerminal("chat", NO_COLOR="1")
    terminal.expectPrompt()
    assert terminal.settings() != terminal.before  # readline has the terminal
    terminal.type("never sent\x03")
    terminal.expect("Ctrl-D or /exit leaves")
    terminal.expectPrompt()
    terminal.type("ac\x1b[Db\r")
    request = server.request()
    assert request["params"][1]["prompt_input"] == "abc"
    assert request["params"][2]["keep_history"] == 1
    server.answer(request["id"], token("one"))
    terminal.expect("one")
    assert terminal.settings() == terminal.before
    terminal.type("\x03")
    assert server.expect("$/cancelRequest") == {"id": request["id"]}
    server.answer(request["id"], finish("abort"))
    terminal.expect("interrupted")
    terminal.expectPrompt()
    terminal.type("\x1b[A\r")  # the line before, from readline's history
    request = server.request()
    assert request["params"][1]["prompt_input"] == "abc"
    server.answer(request["id"], token("two"), finish())
    terminal.expect("two\r\n")
    terminal.expectPrompt()
    terminal.type("\x04")
    assert terminal.end()[0] == 0
    assert terminal.settings() == terminal.before


def test_terminatingAChatAtItsPrompt(server: SocketServer, onTerminal: Callable[..., OnTerminal]) -> None:
    terminal = onTerminal("chat")
    terminal.expectPrompt()
    terminal.process.terminate()
    assert terminal.end()[0] == 128 + signal.SIGTERM
    assert terminal.settings() == terminal.before


def test_chatOfAFile(server: SocketServer) -> None:
    command = Piped(server.path, "chat", stdin=subprocess.PIPE)
    assert command.process.stdin is not None
    command.process.stdin.write("one\nzw\xf6lf".encode("latin-1"))  # not UTF-8: shown as such, no defect
    command.process.stdin.close()
    command.process.stdin = None
    for expected in ("one", "zw\ufffdlf"):
        request = server.request()
        assert request["params"][1]["prompt_input"] == expected
        server.answer(request["id"], token("ok"), finish())
    assert command.end() == (0, "ok\nok\n", "")


def test_closedStandardStreams(server: SocketServer) -> None:
    shell = f'"{sys.executable}" -m rkllm_twisted.cli run hi <&- 2>&-'
    process = subprocess.Popen(["sh", "-c", shell], stdout=subprocess.PIPE, env=environment(server.path), cwd="/")
    server.answer(server.expect("rkllm.run"), token("a"), finish())
    out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (0, b"a\n")


@pytest.mark.parametrize("argv", ["run hi", "chat", "status", "call rkllm.is_running"])
def test_standardOutputIsClosed(tmp_path: Path, argv: str) -> None:
    """An answer that would go nowhere is not asked for."""
    shell = f'"{sys.executable}" -m rkllm_twisted.cli {argv} >&-'
    environ = environment(str(tmp_path / "nothing"))
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, env=environ, cwd="/", timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (1, "rkllm: standard output is closed, there is nowhere to write to\n")

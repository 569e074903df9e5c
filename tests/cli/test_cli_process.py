"""The command as a process, its streams in pipes or closed."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.processes import PATIENCE, Piped, SocketServer, environment
from tests.spoken_server import finish, token


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
    command.feed("Grüße".encode())
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
    command.feed(b'[null,\n {"prompt_input": "hi"}]')
    request = server.request()
    assert request["params"] == [None, {"prompt_input": "hi"}]
    server.answer(request["id"], token("a"))
    command.read(json.dumps(token("a")) + "\n")
    server.answer(request["id"], finish())
    assert command.end() == (0, json.dumps(finish()) + "\n", "")


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
    server.hangUp()
    assert command.end() == (1, "\n", "rkllm: connection to the server lost: the server closed it\n")


def test_chatOfAFile(server: SocketServer) -> None:
    command = Piped(server.path, "chat", stdin=subprocess.PIPE)
    command.feed("one\nzw\xf6lf".encode("latin-1"))  # not UTF-8: shown as such, no defect
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

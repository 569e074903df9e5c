"""The clients of examples/clients, each where its language is installed."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.spoken_server import token

CLIENTS = Path(__file__).parents[2] / "examples/clients"
# The program, and what it needs; a shell's nc is that of OpenBSD.
COMMANDS = {
    "ask.py": ([sys.executable], []),
    "ask.js": (["node"], ["node"]),
    "ask.go": (["go", "run"], ["go"]),
    "ask.sh": (["sh"], ["jq", "nc"]),
}


@pytest.fixture(params=COMMANDS)
def ask(request, tmp_path):
    """A function that runs a client, and returns what became of it."""
    command, needed = COMMANDS[request.param]
    missing = [tool for tool in needed if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} is not installed")
    if request.param == "ask.sh" and "-N" not in subprocess.run(["nc", "-h"], capture_output=True, text=True).stderr:
        pytest.skip("nc is another than OpenBSD's")

    def ask(prompt):
        return subprocess.run(
            [*command, str(CLIENTS / request.param), prompt],
            capture_output=True,
            text=True,
            env={**os.environ, "RKLLM_UDS_PATH": str(tmp_path / "rkllm.sock")},
            timeout=200,
        )

    return ask


def test_every_client_is_here():
    assert {path.name for path in CLIENTS.iterdir() if path.suffix != ".md"} == set(COMMANDS)


def test_answer(ask, daemon):
    daemon("--backend", "scripted", "--model", "any")
    done = ask('one "two" drei größer')
    assert (done.stdout, done.stderr, done.returncode) == ('one "two" drei größer', "", 0)


def test_refusal(ask, daemon):
    daemon("--backend", "scripted")
    done = ask("one")
    assert done.stdout == ""
    assert "model not initialized" in done.stderr
    assert done.returncode == 1


def test_no_daemon(ask):
    done = ask("one")
    assert done.stdout == ""
    assert done.stderr != ""
    assert done.returncode == 1


@pytest.fixture(params=[b"", b'{"jsonrpc":"2.0","id":1,"res'], ids=["after a line", "in a line"])
def mortalDaemon(request, tmp_path):
    """A daemon that goes after its first token."""

    def serve():
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as lines:
            lines.readline()
            connection.sendall(
                json.dumps({"jsonrpc": "2.0", "id": 1, "result": token("one")}).encode() + b"\n" + request.param
            )

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "rkllm.sock"))
        listener.listen()
        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        yield
        serving.join(60)


def test_daemon_that_goes_in_mid_answer(ask, mortalDaemon):
    """Half an answer is no answer."""
    done = ask("one two")
    assert done.stdout == "one"
    assert "the daemon has gone" in done.stderr or "JSON" in done.stderr
    assert done.returncode == 1

"""A child dies with its parent, whatever way the parent ends."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.backends.isolated.children import PLUGIN, isAlive

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(PLUGIN)))}
SECONDS = 20
"""How long a busy machine may take for what takes milliseconds."""


class Parent:
    """A parent program, and its child.

    Args:
        prompt: Of its run.
    """

    def __init__(self, prompt):
        command = [sys.executable, "-m", "tests.backends.isolated.parent", prompt]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.child = int(self.process.stdout.readline())
        self._descriptor = os.pidfd_open(self.child)

    def tell(self, order):
        """What to do."""
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()

    def childIsGone(self, seconds=SECONDS):
        """Wait for the end of the child; whether it has ended in time."""
        isGone = bool(select.select([self._descriptor], [], [], seconds)[0])
        assert isGone != isAlive(self.child)
        return isGone

    def close(self):
        """Leave nothing behind."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)
        os.close(self._descriptor)
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def parentOf():
    """Starts parents."""
    parents = []

    def begin(prompt):
        parents.append(Parent(prompt))
        return parents[-1]

    yield begin
    for parent in parents:
        parent.close()


@pytest.mark.parametrize("prompt", ["", "!pause", "!hold", "!deaf !wait", "!many=1000000000"])
def test_parent_is_killed(parentOf, prompt):
    parent = parentOf(prompt)
    assert isAlive(parent.child)
    parent.process.kill()
    assert parent.childIsGone()


@pytest.mark.parametrize("prompt", ["!pause", "!hold"])
def test_parent_exits(parentOf, prompt):
    parent = parentOf(prompt)
    parent.tell("exit")
    assert parent.childIsGone()


@pytest.mark.parametrize("prompt", ["!pause", "!deaf !wait", "!many=1000000000"])
def test_parent_becomes_another_program(parentOf, prompt):
    """The kernel sees no end then; the pipe has one."""
    parent = parentOf(prompt)
    parent.tell("exec")
    assert parent.childIsGone()
    assert parent.process.poll() is None


def test_child_stays_with_its_parent(parentOf):
    """Else the tests above would pass for children that die of something else."""
    parent = parentOf("!pause")
    assert not parent.childIsGone(0.2)


def test_signals_to_the_whole_group_reach_the_parent_only(parentOf):
    """Ctrl-C in a terminal, and a service manager that stops all processes of a service."""
    parent = parentOf("!pause")
    status = Path(f"/proc/{parent.child}/status").read_text()
    (ignored,) = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigIgn")]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        assert ignored >> (number - 1) & 1


@pytest.mark.parametrize("prompt", ["!deaf !pause", "!hold"])
def test_daemon_is_stopped(tmp_path, prompt):
    """By SIGTERM, in the midst of a run that hears no abort."""
    path = tmp_path / "s"
    command = [str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", "rkllm"]
    daemon = subprocess.Popen(
        [*command, "--backend", "faulty", "--listen", f"unix:{path}", "--abort-limit", "0.5"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        while "Server started successfully" not in daemon.stdout.readline():
            assert daemon.poll() is None
        with socket.socket(socket.AF_UNIX) as client, client.makefile("rb") as lines:
            client.settimeout(SECONDS)
            client.connect(str(path))
            ask(client, 1, "rkllm.init", {"model_path": "model"})
            assert json.loads(lines.readline())["result"]["success"]
            ask(client, 2, "rkllm.run", {"prompt_input": f"!state {prompt}"})
            child = json.loads(json.loads(lines.readline())["result"]["text"])["pid"]
            descriptor = os.pidfd_open(child)
            daemon.terminate()
            assert select.select([descriptor], [], [], SECONDS)[0]
            os.close(descriptor)
        daemon.communicate(timeout=SECONDS)
        assert not isAlive(child)
    finally:
        daemon.kill()
        daemon.communicate()


def ask(client, number, method, param):
    """Send a request."""
    message = {"jsonrpc": "2.0", "id": number, "method": method, "params": [param]}
    client.sendall(json.dumps(message).encode() + b"\n")

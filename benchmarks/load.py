"""Load on a server, from the generator in C."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.servers import Server

CALL = '{"jsonrpc":"2.0","id":1,"method":"rkllm.is_running","params":[null]}'
"""The cheap call: no model, no turn, nothing but the way in and out."""


class Load:
    """The load generator.

    Args:
        program: It.
        cpus: On which it runs; None for wherever the kernel likes.
    """

    def __init__(self, program: Path, cpus: set[int] | None = None) -> None:
        self._program = program
        self._cpus = cpus

    def on(self, cpus: set[int]) -> Load:
        """The same on these CPUs alone."""
        return Load(self._program, cpus)

    def start(self, mode: str, path: Path, *arguments: object) -> subprocess.Popen[bytes]:
        """Start a mode of ``native/load.c``; `result` waits for it."""
        command = [str(self._program), mode, str(path), *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        if self._cpus is not None:
            os.sched_setaffinity(process.pid, self._cpus)
        return process

    def run(self, mode: str, path: Path, *arguments: object) -> dict[str, Any]:
        """Run a mode of ``native/load.c`` to its end; gives what it prints."""
        return result(self.start(mode, path, *arguments))

    def calls(self, server: Server, clients: int, seconds: float) -> dict[str, Any]:
        """Let so many clients make the cheap call for so long; gives what is printed of it."""
        return self.run("calls", server.path, clients, seconds, CALL, server.pid)


def result(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What a started load has measured.

    Raises:
        RuntimeError: It failed; it has said why on stderr.
    """
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the load generator ended with status {process.returncode}")
    measured: dict[str, Any] = json.loads(output)
    return measured


def runRequest(tokens: int, mode: int = 0, **delivery: str) -> str:
    """The request for a stream of so many tokens."""
    params = [None, {"prompt_input": "x"}, {"mode": mode, "max_new_tokens": tokens}, *([delivery] if delivery else [])]
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "rkllm.run", "params": params}, separators=(",", ":"))

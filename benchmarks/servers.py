"""The servers that take turns, each in processes of its own: started, watched and ended."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from benchmarks.building import CONTEXT, Built
from benchmarks.client import Client

HERE = Path(__file__).parent.parent
TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile=")
MANY = ("--max-clients", "5000", "--max-queue", "5000")
"""More than any measurement has; every other limit is as a user has it."""


class Server:
    """A process that listens on a Unix socket.

    Args:
        name: Of its side, a short word.
        command: Its arguments; ``{path}`` stands for the socket.
        path: The socket.
        listening: What it prints when it listens.
        checkout: The directory in which it runs, and from which it imports.
        environment: What it has besides that of this process.

    Attributes:
        started: Seconds from its start until it listened.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        path: Path,
        listening: str = "listening",
        checkout: Path = HERE,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.path = path
        path.unlink(missing_ok=True)
        began = time.perf_counter()
        self._process = subprocess.Popen(
            [each.replace("{path}", str(path)) for each in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=checkout,
            env={**os.environ, **(environment or {}), "PYTHONPATH": str(checkout)},
        )
        assert self._process.stdout is not None
        self._output: IO[bytes] = self._process.stdout
        self._readUntil(listening.encode())
        self.started = time.perf_counter() - began
        # What nobody reads would stop the server when the pipe is full: a daemon logs its connections.
        self._reading = threading.Thread(target=self._output.read, daemon=True)
        self._reading.start()

    @property
    def pid(self) -> int:
        """Of the process itself."""
        return self._process.pid

    def pids(self) -> list[int]:
        """Of the process and of its children, if it has any."""
        found = [self.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                found += [int(child) for child in task.read_text().split()]
        return found

    def seconds(self) -> float:
        """The CPU time that it has taken, its children's included."""
        return sum(processor(pid) for pid in self.pids())

    def pin(self, cpus: set[int]) -> None:
        """Let all its threads run on these CPUs alone."""
        for pid in self.pids():
            for task in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), cpus)

    def stop(self) -> None:
        """End it, and wait for that."""
        self._process.terminate()
        self._process.wait()
        self._reading.join()
        self._output.close()

    def _readUntil(self, listening: bytes) -> None:
        said = []
        for line in self._output:
            said.append(line)
            if listening in line:
                return
        raise RuntimeError(f"{self.name}: it ended before it listened: {b''.join(said).decode()}")


def processor(pid: int) -> float:
    """The CPU time that a process has taken, in seconds, all its threads together."""
    # What clock_getcpuclockid(3) makes of a pid on Linux; Python has that for threads only.
    return time.clock_gettime(~pid << 3 | 2)


def memory(pid: int, field: str = "VmRSS") -> float:
    """A figure of ``/proc/PID/status`` in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/{pid}/status has no {field}")


def echo(built: Built, directory: Path) -> Server:
    """The C echo."""
    return Server("echo", [str(built.echo), "{path}"], directory / "echo.sock")


def bareLines(directory: Path, *options: str, name: str = "bare", prefix: Sequence[str] = ()) -> Server:
    """The bare LineReceiver; the words of ``prefix`` come before its command."""
    command = [*prefix, sys.executable, "-m", "benchmarks.bare.lines", "{path}", *options]
    return Server(name, command, directory / f"{name}.sock")


def bareTokens(built: Built, directory: Path, prefix: Sequence[str] = ()) -> Server:
    """The bare server of tokens; the words of ``prefix`` come before its command."""
    command = [*prefix, sys.executable, "-m", "benchmarks.bare.tokens", "{path}", str(built.library), str(built.model)]
    command.append(str(CONTEXT))
    return Server("tokens", command, directory / "tokens.sock", environment=built.environment)


def daemon(
    built: Built,
    directory: Path,
    isolation: str,
    name: str,
    options: Sequence[str] = MANY,
    checkout: Path = HERE,
    prefix: Sequence[str] = (),
) -> Server:
    """``twistd rkllm`` with the library; no model is loaded yet.

    Args:
        built: Has the library.
        directory: Where its socket is.
        isolation: As the option of that name.
        name: Of the side.
        options: More options.
        checkout: Whose daemon it is.
        prefix: Words before its command.
    """
    backend = f"rkllm:library={built.library}"
    command = [*prefix, *TWISTD, "rkllm", "--backend", backend, "--isolation", isolation]
    command += ["--listen", "unix:{path}:backlog=1024"]
    path = directory / f"{name}.sock"
    return Server(name, [*command, *options], path, "Server started successfully", checkout, built.environment)


def loadModel(server: Server, built: Built) -> None:
    """Let a daemon load the model."""
    param = {"model_path": str(built.model), "max_context_len": CONTEXT, "ignore_eos_token": True}
    with Client(server.path) as client:
        answer = client.ask("rkllm.init", None, param)
    if "error" in answer:
        raise RuntimeError(f"{server.name}: {answer['error']}")

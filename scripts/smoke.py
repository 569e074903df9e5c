"""A first look at an installation: the daemon starts, answers and stops. Needs nothing but what is installed.

Usage: python scripts/smoke.py  (the python beside which twistd and rkllm are installed)
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

BIN = Path(sys.executable).parent


def rkllm(*arguments: str) -> str:
    """What the command ``rkllm`` writes."""
    return subprocess.run([BIN / "rkllm", *arguments], check=True, text=True, capture_output=True, timeout=60).stdout


def expect(what: str, found: object, expected: object) -> None:
    """End with a line if something is not as it should be."""
    if found != expected:
        sys.exit(f"smoke: {what}: expected {expected!r}, got {found!r}")


def look(daemon: subprocess.Popen[str]) -> None:
    """Ask the daemon, and stop it."""
    assert daemon.stdout is not None
    log = []
    for line in daemon.stdout:
        log.append(line)
        if "Server started successfully" in line:
            break
    else:
        sys.exit(f"smoke: the daemon has not started: {''.join(log)}")
    expect("rkllm run", rkllm("run", "one two three"), "one two three\n")
    expect("status", json.loads(rkllm("status", "--json"))["version"], version("rkllm-twisted"))
    expect("methods", "rkllm.run" in rkllm("call", "rpc.discover"), True)
    daemon.send_signal(signal.SIGTERM)
    rest = daemon.stdout.read()
    expect("the end of the daemon", daemon.wait(60), -signal.SIGTERM)
    expect("tracebacks", "Traceback" in rest, False)


def main() -> None:
    """Look at everything."""
    with tempfile.TemporaryDirectory() as directory:
        os.environ["RKLLM_UDS_PATH"] = path = f"{directory}/rkllm.sock"
        command = [BIN / "twistd", "-n", "--pidfile=", "rkllm", "--backend", "scripted", "--model", "any"]
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(command, cwd=directory, text=True, **output) as daemon:
            try:
                look(daemon)
            finally:
                daemon.kill()
        expect("the socket's file after the stop", os.path.exists(path), False)
    versions = {"Python": sys.version.split()[0], **{name: version(name) for name in ("rkllm-twisted", "Twisted")}}
    print("smoke: serves with", ", ".join(f"{name} {number}" for name, number in versions.items()))


if __name__ == "__main__":
    main()

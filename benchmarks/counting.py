"""Instructions instead of time: what the machine's noise does not move.

    python -m benchmarks.counting [--write]

Valgrind's callgrind counts the instructions of a server while it answers 1,000 calls, or 1,000 tokens of a stream, one
by one or in batches: of the daemon, and of the bare servers. The counts are compared with ``baseline.json``, and the
exit status is 1 if one of the daemon's has grown by more than is allowed. ``--write`` makes the new counts the
baseline.

With another Python or other packages than the baseline's, numbers of instructions say nothing of our code: then those
of the daemon divided by those of the bare server are compared, both from the same run.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.building import Built, build
from benchmarks.client import Client
from benchmarks.counted import Counted, countedServers
from benchmarks.load import CALL, runRequest

BASELINE = Path(__file__).parent / "baseline.json"
ALLOWED = {"call": 0.05, "token": 0.05, "batch": 0.1}
"""Counts of the same code differ by up to 0.6 %, those of batches by up to 4.3 %: more is well beyond that."""
TIMES = 1000
STREAMS = 5
"""Without a pause how many tokens come in a batch is a matter of chance, and some streams are a few per cent dearer."""
WARM = 100
PAUSE = 20_000
"""Microseconds before each token, so that each finds the reactor idle even under valgrind, and wakes it."""


def environment() -> dict[str, str]:
    """What the counts are of."""
    packages = {name: version(name) for name in ("Twisted", "msgspec", "cffi", "zope.interface")}
    return {"machine": platform.machine(), "python": platform.python_version(), **packages}


def countCalls(counted: Counted) -> float:
    """Instructions of the server for a call."""
    with Client(counted.path) as client:
        callTimes(client, WARM)
        with counted.counting():
            callTimes(client, TIMES)
    return counted.instructions / TIMES


def callTimes(client: Client, times: int) -> None:
    """Make the cheap call so many times, one after another."""
    for _ in range(times):
        client.send(CALL)
        client.line()


def countTokens(counted: Counted) -> float:
    """Instructions of the server for a token, one stream's part of everything included."""
    with Client(counted.path) as client:
        readStream(client, WARM)
        with counted.counting():
            readStream(client, TIMES)
    return counted.instructions / TIMES


def countBatches(counted: Counted) -> float:
    """Instructions of the server for a token of those that come as fast as they can; the least of some streams."""
    return min(countTokens(counted) for _ in range(STREAMS))


COUNT = {"call": countCalls, "token": countTokens, "batch": countBatches}


def readStream(client: Client, tokens: int) -> None:
    """Ask for a stream and read it to its end."""
    client.send(runRequest(tokens))
    came = 0
    while client.line()["result"]["_callback_state"] == 0:
        came += 1
    if came != tokens:
        raise RuntimeError(f"{came} tokens came, expected {tokens}")


def countAll(built: Built, directory: Path) -> dict[str, float]:
    """The instructions of each server for what it does."""
    counts = {}
    for name, start in countedServers(built, directory).items():
        _, what = name.split()
        built.pause(PAUSE if what == "token" else 0)
        counted = start()
        try:
            counts[name] = COUNT[what](counted)
        finally:
            counted.stop()
        print(f"{name:12} {counts[name]:10.0f} instructions each", flush=True)
    return counts


def compare(counts: dict[str, float], baseline: dict[str, Any]) -> bool:
    """Print the changes; whether none of the daemon's is above the tolerance."""
    isSame, before = baseline["environment"] == environment(), baseline["counts"]
    if not isSame:
        print(f"the baseline is of {baseline['environment']}: what is compared is the daemon divided by bare")
    isWell = True
    for what, allowed in ALLOWED.items():
        name, bare = f"daemon {what}", f"bare {what}"
        now, then = counts[name], before[name]
        if not isSame:
            now, then = now / counts[bare], then / before[bare]
        change = now / then - 1
        isWell &= change <= allowed
        print(f"{name:12} {change:+.1%} against the baseline" + ("" if change <= allowed else ", MORE THAN ALLOWED"))
    return isWell


def main() -> None:
    """Count and compare."""
    parser = argparse.ArgumentParser("python -m benchmarks.counting", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="make these counts the baseline")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        counts = countAll(build(Path(directory)), Path(directory))
    if given.write:
        written = {name: round(count) for name, count in counts.items()}
        BASELINE.write_text(json.dumps({"environment": environment(), "counts": written}, indent=2) + "\n")
    elif not compare(counts, json.loads(BASELINE.read_text())):
        sys.exit(1)


if __name__ == "__main__":
    main()

"""Measures the daemon against programs that do the least possible, and prints a table.

    python -m benchmarks [NAME ...] [--rounds 9] [--quick] [--against CHECKOUT] [--json FILE]

Without names everything is measured, which takes minutes.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path

from benchmarks.building import build
from benchmarks.calls import CALLS
from benchmarks.report import HEAD, asJson, lineOf, machine, machineLine, sidesOf
from benchmarks.rows import Measurement
from benchmarks.scale import SCALE
from benchmarks.sizes import SIZES
from benchmarks.stage import Stage
from benchmarks.streams import STREAMS
from benchmarks.tensors import TENSORS

MEASUREMENTS = (*CALLS, *STREAMS, *TENSORS, *SIZES, *SCALE)
QUICK = 0.05
"""Of the full length, what a quick turn has."""


def measure(stage: Stage, measurements: list[Measurement], isTellingSides: bool) -> list[dict[str, object]]:
    """Measure, and print each row when it is there; gives all as JSON."""
    print(HEAD)
    done = []
    for measurement in measurements:
        rounds = measurement.run(stage)
        for row in measurement.rowsOf(rounds):
            print(lineOf(row, rounds), flush=True)
        if isTellingSides:
            print("\n".join(sidesOf(rounds)), flush=True)
        done.append(asJson(measurement, rounds))
    return done


def parse() -> argparse.Namespace:
    """The command line."""
    names = [each.name for each in MEASUREMENTS]
    parser = argparse.ArgumentParser("python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="two short rounds: shows that it works, measures nothing")
    parser.add_argument("--sides", action="store_true", help="tell the figures of all sides too")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout whose daemon takes part")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured")
    given = parser.parse_args()
    if unknown := set(given.names) - set(names):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return given


def main() -> None:
    """Measure what the command line asks for."""
    given = parse()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the servers are ended
    measurements = [each for each in MEASUREMENTS if not given.names or each.name in given.names]
    described = machine()
    print(machineLine(described))
    other = given.against and given.against.resolve()
    rounds, effort = (2, QUICK) if given.quick else (given.rounds, 1.0)
    with tempfile.TemporaryDirectory() as directory:
        stage = Stage(build(Path(directory)), Path(directory), rounds, effort, other)
        try:
            done = measure(stage, measurements, given.sides)
        finally:
            stage.close()
    if given.json:
        given.json.write_text(json.dumps({"machine": described, "measurements": done}, indent=1))


if __name__ == "__main__":
    main()

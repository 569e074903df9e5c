"""The table, and everything that was measured as JSON."""

from __future__ import annotations

import os
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.rounds import Rounds
from benchmarks.rows import Measurement, Row

PACKAGES = ("Twisted", "msgspec", "cffi")
HEAD = f"{'measure':46} {'side':15} {'median':>9} {'unit':5} {'other':>9} {'ratio (least–most)':>22}  goal"


def machine() -> dict[str, Any]:
    """What the figures are of."""
    return {
        "processor": processorName(),
        "architecture": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "load": os.getloadavg()[0],
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        **{name: version(name) for name in PACKAGES},
        "when": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def processorName() -> str:
    """As the kernel has it; ARM's has only numbers there."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unnamed processor"


def machineLine(described: dict[str, Any]) -> str:
    """The same in a line."""
    packages = ", ".join(f"{name} {described[name]}" for name in PACKAGES)
    return (
        f"{described['when']}: {described['cpus']} CPUs, {described['processor']}, {described['architecture']}, "
        f"Linux {described['kernel']}, load {described['load']:.1f}; {described['python']}, {packages}"
    )


def lineOf(row: Row, rounds: Rounds) -> str:
    """A row of the table."""
    compared = row.compared(rounds)
    figure = _number(rounds.median(row.side, row.figure))
    other = spread = ""
    if row.against is not None:
        other = _number(rounds.median(row.against, row.figure))
        spread = f"{statistics.median(compared):.2f} ({min(compared):.2f}–{max(compared):.2f})"
    goal = ""
    if row.goal is not None:
        sign, reached = "≤" if row.isMost else "≥", "yes" if row.isReached(rounds) else "NO"
        goal = f"{sign} {row.goal:g} {reached}"
    return f"{row.title:46} {row.side:15} {figure:>9} {row.unit:5} {other:>9} {spread:>22}  {goal}".rstrip()


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 or value == round(value) else f"{value:.3g}"


def sidesOf(rounds: Rounds) -> list[str]:
    """A line for each side with the medians of all its figures."""
    return [
        f"    {side:15} " + "  ".join(f"{name} {_number(rounds.median(side, name))}" for name in first.figures)
        for side, first in rounds.rounds[0].items()
    ]


def asJson(measurement: Measurement, rounds: Rounds) -> dict[str, Any]:
    """Everything that a measurement has measured, and what is told of it."""
    return {
        "name": measurement.name,
        "what": measurement.what,
        "rounds": [{side: sample.figures for side, sample in samples.items()} for samples in rounds.rounds],
        "quantiles": {side: rounds.quantiles(side) for side in rounds.sides},
        "rows": [
            {
                "title": row.title,
                "side": row.side,
                "against": row.against,
                "figure": row.figure,
                "unit": row.unit,
                "median": rounds.median(row.side, row.figure),
                "compared": row.compared(rounds),
                "goal": row.goal,
                "is_most": row.isMost,
                "is_reached": row.isReached(rounds),
            }
            for row in measurement.rowsOf(rounds)
        ],
    }

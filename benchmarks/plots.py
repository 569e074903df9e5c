"""Figures of what was measured: how times are distributed, and what a call costs the more there is of something.

python -m benchmarks.plots RESULTS.json DIRECTORY
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")  # before pyplot looks for a display

from matplotlib import pyplot

DISTRIBUTIONS = {
    "one": "Round trip of the cheap call, one client",
    "fifty": "Round trip of the cheap call, 50 clients",
    "latency": "From the callback to the client, a token each 100 us",
    "beside": "Round trip of the cheap call while another client has a stream",
}
GROWTH = {"clients": "clients that ask", "connections": "connections that do nothing", "queue": "waiting requests"}


def distribution(measurement: dict[str, Any], title: str, target: Path) -> None:
    """Each side's times by quantile. The last one, the longest of all, is left out: it is chance."""
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for side, quantiles in measurement["quantiles"].items():
        if quantiles:
            axes.plot([number / 10 for number in range(1000)], quantiles[:-1], label=side)
    axes.set(title=title, xlabel="per cent of all", ylabel="us, at most", yscale="log")
    _save(figure, axes, target)


def growth(measurements: dict[str, dict[str, Any]], target: Path) -> None:
    """The CPU time of a call by the size of three things."""
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for name, what in GROWTH.items():
        if name in measurements:
            axes.plot(*_medians(measurements[name]["rounds"]), marker="o", label=what)
    axes.set_xscale("symlog", linthresh=1)
    axes.set(title="CPU time of the cheap call", xlabel="how many", ylabel="us")
    axes.set_ylim(bottom=0)
    _save(figure, axes, target)


def _medians(rounds: list[dict[str, dict[str, float]]]) -> tuple[list[int], list[float]]:
    sizes = [int(size) for size in rounds[0]]
    cells = [sorted(each[str(size)]["cpu"] for each in rounds) for size in sizes]
    return sizes, [column[len(column) // 2] for column in cells]


def _save(figure: Any, axes: Any, target: Path) -> None:
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(target)
    pyplot.close(figure)
    print(target)


def draw(results: dict[str, Any], directory: Path) -> None:
    """Draw what there are results for."""
    directory.mkdir(parents=True, exist_ok=True)
    measurements = {each["name"]: each for each in results["measurements"]}
    for name, title in DISTRIBUTIONS.items():
        if name in measurements:
            distribution(measurements[name], title, directory / f"{name}.svg")
    if GROWTH.keys() & measurements.keys():
        growth(measurements, directory / "growth.svg")


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))

"""Turns and rounds.

The servers of a measurement are all there at the same time, and are measured in turns: a machine that slows down slows
all of them down. What is told is the median over the rounds, and for a ratio the median of the rounds' own ratios.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar


class Side(Protocol):
    """Whatever is measured: a server, or a size of a load."""

    @property
    def name(self) -> str:
        """Tells it from the others."""


AnySide = TypeVar("AnySide", bound=Side)


@dataclass
class Sample:
    """What one turn has measured.

    Attributes:
        figures: By name.
        quantiles: Of the times that it took, from 0 to 1000 ‰, in microseconds.
    """

    figures: dict[str, float]
    quantiles: list[float] = field(default_factory=list)


@dataclass
class Rounds:
    """The samples of all rounds, each by the name of its side."""

    rounds: list[dict[str, Sample]]

    @property
    def sides(self) -> list[str]:
        """The names of the sides."""
        return list(self.rounds[0])

    def values(self, side: str, figure: str) -> list[float]:
        """A figure of a side, round by round."""
        return [samples[side].figures[figure] for samples in self.rounds]

    def median(self, side: str, figure: str) -> float:
        """The median of a figure of a side."""
        return statistics.median(self.values(side, figure))

    def ratios(self, side: str, against: str, figure: str) -> list[float]:
        """A figure of a side divided by that of another, round by round."""
        pairs = zip(self.values(side, figure), self.values(against, figure), strict=True)
        # Nothing divided by nothing: tokens that neither has lost.
        return [one / other if other else 1.0 if one == other else math.inf for one, other in pairs]

    def quantiles(self, side: str) -> list[float]:
        """The quantiles of a side, each the median over the rounds."""
        each = [samples[side].quantiles for samples in self.rounds]
        return [statistics.median(column) for column in zip(*each, strict=True)]


def takeTurns(sides: Iterable[AnySide], count: int, measure: Callable[[AnySide], Sample]) -> Rounds:
    """Measure all sides in each of so many rounds. Who is first changes from round to round."""
    order = list(sides)
    rounds = []
    for number in range(count):
        first = number % len(order)
        taken = {side.name: measure(side) for side in (*order[first:], *order[:first])}
        rounds.append({side.name: taken[side.name] for side in order})
    return Rounds(rounds)

"""Rows of the table: a figure of one side, against that of another or against a number, and the goal."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmarks.rounds import Rounds
from benchmarks.stage import DAEMON, OTHER, Stage


@dataclass(frozen=True)
class Row:
    """A row.

    Attributes:
        title: What is measured.
        figure: Its name in the samples.
        unit: Of the figure.
        side: Whose figure it is.
        against: Whose figure it is divided by; None where the figure itself has the goal.
        goal: What to reach, the ratio's or the figure's; None where nothing was promised.
        isMost: Whether less is better.
    """

    title: str
    figure: str
    unit: str
    side: str
    against: str | None = None
    goal: float | None = None
    isMost: bool = True

    def compared(self, rounds: Rounds) -> list[float]:
        """What has the goal, round by round: ratios, or the figure."""
        if self.against is None:
            return rounds.values(self.side, self.figure)
        return rounds.ratios(self.side, self.against, self.figure)

    def isReached(self, rounds: Rounds) -> bool | None:
        """Whether the goal is reached; None if there is none."""
        if self.goal is None:
            return None
        value = statistics.median(self.compared(rounds))
        return value <= self.goal if self.isMost else value >= self.goal


@dataclass(frozen=True)
class Measurement:
    """One measurement, which fills some rows.

    Attributes:
        name: A short word, to choose it by.
        what: What is done, in a sentence.
        run: Measures.
        rows: What is told of it.
    """

    name: str
    what: str
    run: Callable[[Stage], Rounds]
    rows: tuple[Row, ...]

    def rowsOf(self, rounds: Rounds) -> list[Row]:
        """The rows, and where another checkout takes part, each of the daemon's against that one too."""
        rows = []
        for row in self.rows:
            rows.append(row)
            if row.side == DAEMON and OTHER in rounds.sides:
                rows.append(replace(row, title="… against the other checkout", against=OTHER, goal=None))
        return rows

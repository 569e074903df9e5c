"""Makes an episode that went wrong shorter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from tests.fuzz.episodes import Episode, Step


def shortened(episode: Episode, isStillWrong: Callable[[Episode], object], tries: int = 4000) -> Episode:
    """The episode with everything left out that can be while it is still wrong: steps, lines, bytes."""
    budget = iter(range(tries))

    def isWrong(steps: list[Step]) -> bool:
        return next(budget, None) is not None and bool(isStillWrong(replace(episode, steps=steps)))

    steps = _without(episode.steps, isWrong)
    inLines = [part for step in _joined(steps) for part in _linesOf(step)]
    if isWrong(inLines):
        steps = _without(inLines, isWrong)
    for place, step in enumerate(steps):
        if step[0] == "send":
            rebuilt = partial(_withData, steps, place)
            steps = rebuilt(_without(step[2], lambda data, rebuilt=rebuilt: isWrong(rebuilt(data))))  # type: ignore[misc]
    return replace(episode, steps=steps)


def _without(whole: Any, isWrong: Callable[[Any], bool]) -> Any:
    """A list or bytes without what is not needed, in ever smaller parts."""
    size = len(whole) // 2
    while size:
        place = 0
        while place < len(whole):
            rest = whole[:place] + whole[place + size :]
            if isWrong(rest):
                whole = rest
            else:
                place += size
        size //= 2
    return whole


def _joined(steps: list[Step]) -> list[Step]:
    """With the pieces put together that were sent one after the other."""
    joined: list[Step] = []
    for step in steps:
        if step[0] == "send" and joined and joined[-1][:2] == step[:2]:
            joined[-1] = (*step[:2], joined[-1][2] + step[2])
        else:
            joined.append(step)
    return joined


def _linesOf(step: Step) -> list[Step]:
    return [(*step[:2], line) for line in step[2].splitlines(keepends=True)] if step[0] == "send" else [step]


def _withData(steps: list[Step], place: int, data: bytes) -> list[Step]:
    return [*steps[:place], (*steps[place][:2], data), *steps[place + 1 :]]

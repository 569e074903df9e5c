"""Draws states and what leads from one to another, as an SVG: for scripts/lives.py."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from scripts.svg import box, framed

Arrow = tuple[str, str, str, str]
"""From a state to a state, by what event, and what was said then."""
BOX, SLOT, GAP, LANE, LETTER = 160, 19, 14, 9, 7
FILL, COLOURS = "#dbe9ff", ("#333", "#0b62a4", "#a43c0b", "#2d7d32", "#6a3fa0")
Edges = dict[tuple[str, str], list[str]]


def joined(arrows: list[Arrow]) -> Edges:
    """All that leads from one state to another is one arrow."""
    found: Edges = {}
    for before, after, event, _ in arrows:
        labels = found.setdefault((before, after), [])
        if event not in labels:
            labels.append(event)
    return found


def picture(edges: Edges) -> Iterator[str]:
    """An SVG: the states below each other, and each arrow on a way of its own at their right.

    A way leaves its state with its words above it, goes up or down in its lane, and comes back into the other state.
    """
    states = list(dict.fromkeys(state for side in (0, 1) for state in [edge[side] for edge in edges]))
    ways = [edge for edge in edges if edge[0] != edge[1]]
    slots = {state: [edge for side in (0, 1) for edge in ways if edge[side] == state] for state in states}
    heights = {state: SLOT * len(slots[state]) for state in states}
    tops: dict[str, int] = {}
    for state in states:
        tops[state] = 10 + sum(heights[before] + GAP for before in tops)
    lanes = BOX + 20 + LETTER * max(len(", ".join(edges[edge])) for edge in ways)
    drawn: list[str] = []
    for number, edge in enumerate(ways):
        begin, end = (tops[state] + SLOT * slots[state].index(edge) + SLOT - 4 for state in edge)
        drawn += _way(begin, end, lanes + LANE * number, COLOURS[number % len(COLOURS)], ", ".join(edges[edge]))
    for state in states:
        drawn += box(10, tops[state], BOX - 10, heights[state], FILL, state)
    yield from framed(lanes + LANE * len(ways) + 10, tops[states[-1]] + heights[states[-1]] + 10, drawn)


def _way(begin: int, end: int, lane: int, colour: str, words: str) -> Iterator[str]:
    yield f'<path d="M{BOX} {begin}H{lane}V{end}H{BOX}" stroke="{colour}" fill="none" marker-end="url(#tip)"/>'
    yield f'<text x="{BOX + 6}" y="{begin - 3}">{escape(words)}</text>'

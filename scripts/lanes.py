"""Draws states and what leads from one to another, as an SVG: for scripts/lives.py."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

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
    tops: dict[str, int] = {}
    for state in states:
        tops[state] = 10 + sum(SLOT * len(slots[before]) + GAP for before in tops)
    lanes = BOX + 20 + LETTER * max(len(", ".join(edges[edge])) for edge in ways)
    width, height = lanes + LANE * len(ways) + 10, tops[states[-1]] + SLOT * len(slots[states[-1]]) + 10
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    yield ' font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
    yield '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    yield '<path d="M0 0L8 4L0 8z"/></marker></defs>'
    for number, edge in enumerate(ways):
        begin, end = (tops[state] + SLOT * slots[state].index(edge) + SLOT - 4 for state in edge)
        lane = lanes + LANE * number
        path = f"M{BOX} {begin}H{lane}V{end}H{BOX}"
        yield f'<path d="{path}" stroke="{COLOURS[number % len(COLOURS)]}" fill="none" marker-end="url(#tip)"/>'
        yield f'<text x="{BOX + 6}" y="{begin - 3}">{escape(", ".join(edges[edge]))}</text>'
    for state, top in tops.items():
        size = SLOT * len(slots[state])
        yield f'<rect x="10" y="{top}" width="{BOX - 10}" height="{size}" rx="8" fill="{FILL}" stroke="#333"/>'
        yield f'<text x="{BOX // 2 + 5}" y="{top + size // 2 + 4}" text-anchor="middle">{escape(state)}</text>'
    yield "</svg>"

"""Draws states and what leads from one to another, as an SVG: for scripts/diagrams.py and scripts/lives.py."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

Arrow = tuple[str, str, str, str]
"""From a state to a state, by what event, and what was said then."""
Edge = tuple[str, str]
Edges = dict[Edge, list[str]]
LEFT, BOX, SLOT, GAP, LANE, LETTER = 10, 150, 22, 34, 12, 7
"""Pixels: the margin, the width of a box, the height of a row, between two boxes, between two lanes, of a letter."""
STATE, END = "#dbe9ff", "#e8e8e8"
COLOURS = ("#333", "#0b62a4", "#a43c0b", "#2d7d32", "#6a3fa0")


def joined(arrows: list[Arrow]) -> Edges:
    """All that leads from one state to another is one arrow."""
    found: Edges = {}
    for before, after, event, _ in arrows:
        labels = found.setdefault((before, after), [])
        if event not in labels:
            labels.append(event)
    return found


def picture(edges: Edges) -> Iterator[str]:
    """An SVG: the states below each other, each with a row for every arrow that leaves it or comes to it.

    An arrow to the next state goes straight down. One to an end, which nothing leaves, has the end in its own row. Any
    other goes to the right, up or down in a lane, and back into the row of the state to which it leads.
    """
    return Picture(edges).lines()


class Picture:
    """See `picture`.

    Args:
        edges: The words of each arrow; those from a state to itself are left out.
    """

    def __init__(self, edges: Edges) -> None:
        self._words = {edge: "; ".join(labels) for edge, labels in edges.items() if edge[0] != edge[1]}
        self._states = list(dict.fromkeys(before for before, _ in self._words))
        self._straight = [edge for edge in zip(self._states, self._states[1:], strict=False) if edge in self._words]
        self._ending = [edge for edge in self._words if edge[1] not in self._states]
        beside = {*self._straight, *self._ending}
        self._winding = [edge for edge in self._words if edge not in beside]
        self._tops: dict[str, int] = {}
        self._rows: dict[tuple[str, Edge], int] = {}
        self._height = self._place()
        leaving = [edge for edge in self._words if edge not in self._straight]
        self._ends = LEFT + BOX + 20 + LETTER * max((len(self._words[edge]) for edge in leaving), default=0)
        self._lanes = self._ends + 30 + LETTER * max((len(end) for _, end in self._ending), default=0)
        self._laneOf = self._chooseLanes()

    def _place(self) -> int:
        """Give each state its place and its rows, and return the height of all."""
        top = LEFT
        for state in self._states:
            self._tops[state] = top
            leaving = [edge for edge in (*self._ending, *self._winding) if edge[0] == state]
            coming = [edge for edge in self._winding if edge[1] == state]
            for row, edge in enumerate((*leaving, *coming), 1):
                self._rows[state, edge] = top + row * SLOT - 4
            top += max(len(leaving) + len(coming), 1) * SLOT + 4 + GAP
        return top - GAP + LEFT

    def _chooseLanes(self) -> dict[Edge, int]:
        """The nearest lane of each arrow that is free from its one row to its other; the shortest choose first."""
        spans = {edge: sorted(self._rows[state, edge] for state in edge) for edge in self._winding}
        lanes: list[list[list[int]]] = []
        chosen = {}
        for edge in sorted(spans, key=lambda edge: spans[edge][1] - spans[edge][0]):
            begin, end = spans[edge]
            isFree = [all(end < first or last < begin for first, last in lane) for lane in lanes]
            number = isFree.index(True) if True in isFree else len(lanes)
            if number == len(lanes):
                lanes.append([])
            lanes[number].append(spans[edge])
            chosen[edge] = number
        return chosen

    def lines(self) -> Iterator[str]:
        """The SVG."""
        width = self._lanes + LANE * len(set(self._laneOf.values())) + LEFT
        yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {self._height}" width="{width}"'
        yield f' height="{self._height}" font-family="sans-serif" font-size="12">'
        yield '<rect width="100%" height="100%" fill="#fff"/>'
        yield '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8"'
        yield ' orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>'
        for number, edge in enumerate(self._winding):
            yield from self._wind(edge, COLOURS[number % len(COLOURS)])
        for edge in self._ending:
            yield from self._end(edge)
        for edge in self._straight:
            yield from self._goDown(edge)
        for state in self._states:
            yield from box(LEFT, self._tops[state], BOX, self._bottom(state) - self._tops[state], state, STATE)
        yield "</svg>"

    def _bottom(self, state: str) -> int:
        rows = sum(1 for place, _ in self._rows if place == state)
        return self._tops[state] + max(rows, 1) * SLOT + 4

    def _wind(self, edge: Edge, colour: str) -> Iterator[str]:
        (begin, end), right = (self._rows[state, edge] for state in edge), LEFT + BOX
        lane = self._lanes + LANE * self._laneOf[edge]
        yield arrow(f"M{right} {begin}H{lane}V{end}H{right}", colour)
        yield words(right + 6, begin - 4, self._words[edge], colour)

    def _end(self, edge: Edge) -> Iterator[str]:
        row, right = self._rows[edge[0], edge], LEFT + BOX
        yield arrow(f"M{right} {row}H{self._ends}")
        yield words(right + 6, row - 4, self._words[edge])
        yield from box(self._ends, row - 10, self._lanes - self._ends - 20, 18, edge[1], END)

    def _goDown(self, edge: Edge) -> Iterator[str]:
        begin, end, middle = self._bottom(edge[0]), self._tops[edge[1]], LEFT + BOX // 2
        yield arrow(f"M{middle} {begin}V{end}")
        yield words(middle + 8, (begin + end) // 2 + 4, self._words[edge])


def arrow(path: str, colour: str = COLOURS[0]) -> str:
    """A line with a tip."""
    return f'<path d="{path}" stroke="{colour}" fill="none" marker-end="url(#tip)"/>'


def words(x: int, y: int, text: str, colour: str = COLOURS[0]) -> str:
    """A text that begins at a place."""
    return f'<text x="{x}" y="{y}" fill="{colour}">{escape(text)}</text>'


def box(x: int, y: int, width: int, height: int, text: str, fill: str) -> Iterator[str]:
    """A box with a text in its middle."""
    yield f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{fill}" stroke="#333"/>'
    yield f'<text x="{x + width // 2}" y="{y + height // 2 + 4}" text-anchor="middle">{escape(text)}</text>'

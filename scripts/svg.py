"""What the pictures of scripts/diagrams.py and scripts/lanes.py have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape


def framed(width: int, height: int, drawn: Iterable[str]) -> Iterator[str]:
    """An SVG of this size in pixels, white below what is drawn; a path in it may end in ``url(#tip)``."""
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    yield ' font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
    yield '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    yield '<path d="M0 0L8 4L0 8z"/></marker></defs>'
    yield from drawn
    yield "</svg>"


def box(left: int, top: int, width: int, height: int, fill: str, text: str) -> Iterator[str]:
    """A state: a box with its name in the middle."""
    yield f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="8" fill="{fill}" stroke="#333"/>'
    yield f'<text x="{left + width // 2}" y="{top + height // 2 + 4}" text-anchor="middle">{escape(text)}</text>'

"""Draws the life of a child process and of a generation in it, by trying it out: docs/explanation/lives.md.

The real objects are taken through everything that can happen to them, in every state, and what they do
is written down. A test compares the page with what this writes.

Usage: python -m scripts.lives [DEPTH [DIRECTORY]]

DEPTH is the most events in a row, 8 where it is not given; more must change nothing. What the daemon as a whole does is
drawn by scripts/diagrams.py.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap

from twisted.logger import globalLogBeginner

from scripts.lanes import Arrow, joined, picture
from scripts.subjects import ChildLife, GenerationLife, Subject

HEAD = """# The lives of a child, and of a generation in it

[Why a child process](child.md) has the reasons; here is what it does. **Generated** by `scripts/lives.py`: it takes the
real objects through everything that can happen to them, in every state, and writes down what becomes of them. What
changes nothing and says nothing is left out. Where a state is left in two ways by the same event, what was before
decides: a second death, say.
"""
PAGE = Path(__file__).parent.parent / "docs/explanation/lives.md"
END = "ended"


def pages(depth: int = 8) -> dict[Path, list[str]]:
    """The page and its pictures, each as lines."""
    lines, written = HEAD.splitlines(), {}
    for kind in (GenerationLife, ChildLife):
        arrows = explore(kind, depth)
        name = f"lives-{kind.name}.svg"
        written[PAGE.with_name(name)] = list(picture(joined(arrows)))
        lines += [
            "",
            f"## {kind.title}",
            "",
            *wrap(kind.words, 120),
            "",
            f"![{kind.title}]({name})",
            "",
            *table(arrows),
        ]
    return {PAGE: lines, **written}


def explore(kind: type[Subject], depth: int) -> list[Arrow]:
    """Everything that can become of one.

    Args:
        kind: Of what.
        depth: The most events in a row. More than a life has states is enough.
    """
    arrows: dict[Arrow, None] = {}
    paths: deque[list[str]] = deque([[]])
    seen = set()
    while paths:
        path = paths.popleft()
        before = lived(kind, path)
        known = before.state(), tuple(before.events()), tuple(path[-2:])
        if not before.state() or len(path) == depth or known in seen:
            continue
        seen.add(known)
        for event in before.events():
            after = lived(kind, [*path, event])
            name = after.state() or END
            if name != before.state() or after.said:
                arrows[(before.state(), name, event, ", ".join(after.said))] = None
            paths.append([*path, event])
    states = list(dict.fromkeys(arrow[0] for arrow in arrows))
    return sorted(arrows, key=lambda arrow: states.index(arrow[0]))


def lived(kind: type[Subject], path: list[str]) -> Subject:
    """A new one, to which all this has happened; it says what it said of the last event."""
    subject = kind()
    for event in path:
        subject.said.clear()
        subject.events()[event]()
    return subject


def table(arrows: list[Arrow]) -> Iterator[str]:
    """All of them in words."""
    yield from ("| from | by | to | what is said |", "|---|---|---|---|")
    for before, after, event, said in arrows:
        yield f"| {before} | {event} | {after} | {said} |"


if __name__ == "__main__":
    globalLogBeginner.beginLoggingTo([lambda event: None], redirectStandardIO=False)
    for path, lines in pages(*map(int, sys.argv[1:2])).items():
        (Path(sys.argv[2]) / path.name if len(sys.argv) > 2 else path).write_text("\n".join(lines) + "\n")

"""Writes docs/reference/transcripts.md, from the files in tests/transcripts. A test compares it with what this writes.

Usage: python scripts/transcripts.py >docs/reference/transcripts.md
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
FILES = ROOT / "tests" / "transcripts"
HEAD = """# The rules in transcripts

Conversations over the socket, line by line. **Generated** by `scripts/transcripts.py` from the files in
`tests/transcripts/`, which are played by tests: what is shown here is what the daemon does. What the rules say is in
[the wire contract](wire.md); [each function on the CPU](functions.md) is shown on a page of its own.

The notation:
"""
PLAYED = {
    "": "Played by `tests/test_transcripts.py`, with the backend `scripted`, which repeats the prompt.",
    "npu": "Played by `tests/end_to_end/test_npu.py` to a daemon with the NPU's backend, on a stand-in of its library.",
}


class Transcript(NamedTuple):
    """What is said of a file."""

    path: Path
    summary: str
    rules: list[str]

    @property
    def name(self) -> str:
        """Its heading."""
        return str(self.path.relative_to(FILES).with_suffix(""))


def read(path: Path) -> Transcript:
    """The file's own words: the comment at its beginning, and the rules that it says it shows."""
    lines = path.read_text().splitlines()
    head = lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]
    words = [line.removeprefix("# ") for line in head if not re.match(r"# [A-Z][a-z]+: ", line)]
    rules = [rule for line in head if line.startswith("# Rules: ") for rule in line.split()[2:]]
    return Transcript(path, " ".join(words), rules)


def lines() -> Iterator[str]:
    """Those of the page."""
    yield from HEAD.splitlines()
    yield ""
    yield "```text"
    yield from notation()
    yield "```"
    found = [read(path) for path in sorted(FILES.rglob("*.txt"))]
    yield from ("", "## Where each rule is shown", "", "| rule | transcripts |", "|---|---|")
    for rule in sorted({rule for one in found for rule in one.rules}):
        shown = ", ".join(f"[{one.name}](#{anchor(one.name)})" for one in found if rule in one.rules)
        yield f"| {rule} | {shown} |"
    yield from ("", "Rules that are not in the table are shown by tests that name them.")
    for one in found:
        yield from section(one)


def notation() -> Iterator[str]:
    """The legends of tests/transcripts/README.md."""
    for line in (FILES / "README.md").read_text().splitlines():
        if line.startswith("    "):
            yield line.removeprefix("    ")


def anchor(heading: str) -> str:
    """What a heading is linked by."""
    return re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-"))


def section(one: Transcript) -> Iterator[str]:
    """A transcript; the site has the file itself there, the repository a link to it."""
    played = PLAYED[one.path.parent.name if one.path.parent != FILES else ""]
    path = f"../../{one.path.relative_to(ROOT)}"
    yield from ("", f"## {one.name}", "", *wrap(f"{one.summary} {played}", 120), f"[The file]({path})")
    yield from ("", f"```{{literalinclude}} {path}", "```")


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in lines())

"""Draws how a request goes, and what the daemon's backend does, by trying it out: docs/explanation/states.md.

Usage: python -m scripts.diagrams

A server in memory is put through every order of events, a few events deep, and what it says is looked at after each. So
the diagrams are of what the code does; a test compares the page with what this writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from html import escape
from itertools import count
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock

from rkllm_twisted.backends.scripted import ScriptedBackend
from rkllm_twisted.errors import RuntimeCallFailed
from rkllm_twisted.testing.peers import Peer, Server
from rkllm_twisted.values import RKLLMInput
from scripts.svg import box, framed

PAGE = Path(__file__).parent.parent / "docs/explanation/states.md"
DEPTH = 4
LEFT, BOX, HEIGHT, GAP, ROW = 90, 150, 34, 560, 130
MANY = "word " * 1000
FAILS = "fails"


def script(input: RKLLMInput) -> Iterator[str]:
    """A word a second, as many as there are; one prompt fails after two."""
    words = (input.prompt_input or "").split()
    for number, word in enumerate(words):
        if words[0] == FAILS and number == 2:
            raise RuntimeCallFailed(function="rkllm_run", status=-1)
        yield word


class Conversation:
    """Somebody else who has the model, and somebody who asks for it.

    Attributes:
        asker: Who asks.
        other: Who has it first.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.server = Server(ScriptedBackend(self.clock, script, interval=1.0), self.clock)
        self.other, self.asker = self.server.connect(), self.server.connect(uid=1)
        self._ids = count(100)
        self._seen: list[Any] = []

    def ask(self, peer: Peer, method: str, *params: Any, id: object = None) -> list[Any]:
        """Send a request, and return the lines that came at once."""
        lines = peer.ask(method, None, *params, id=next(self._ids) if id is None else id)
        if peer is self.asker:
            self._seen += lines
        return lines

    def run(self, prompt: str, deadline: float | None) -> None:
        """Ask."""
        self.ask(self.asker, "rkllm.run", {"prompt_input": prompt}, None, {"deadline": deadline}, id="asked")

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self._seen += self.asker.received(seconds)

    def shutDown(self) -> None:
        """As SIGTERM does."""
        self.server.runtime.shutDown()

    def lines(self) -> list[Any]:
        """What has come for what was asked."""
        self.wait(0)
        return [line for line in self._seen if line.get("id") == "asked"]

    def isWaiting(self) -> bool:
        """Whether somebody waits for a turn."""
        return bool(self.status()["queue"]["waiting"])

    def status(self) -> dict[str, Any]:
        """What the daemon says of itself."""
        [line] = self.ask(self.asker, "server.status")
        result: dict[str, Any] = line["result"]
        return result


Event = Callable[[Conversation], object]
Edges = dict[tuple[str, str], list[str]]


class Machine:
    """States that are found by trying events.

    Args:
        begin: What is done before the first event.
        events: What may happen, and how.
        observe: Which state it is in, and whether that is an end.
    """

    def __init__(
        self,
        begin: Event,
        events: dict[str, Event],
        observe: Callable[[Conversation], tuple[str, bool]],
    ) -> None:
        self._begin = begin
        self._events = events
        self._observe = observe
        self.edges: Edges = {}
        self.ends: list[str] = []

    def explore(self, path: tuple[str, ...] = ()) -> Machine:
        """Try each event behind a path of events, and so on."""
        before, isEnd = self._after(path)
        if isEnd or len(path) == DEPTH:
            return self
        for name in self._events:
            after, isEnd = self._after((*path, name))
            if isEnd and after not in self.ends:
                self.ends.append(after)
            labels = self.edges.setdefault((before, after), [])
            isNew = not labels or not any((before, after) != edge and edge[0] == after for edge in self.edges)
            if name not in labels:
                labels.append(name)
            if after != before and isNew:
                self.explore((*path, name))
        return self

    def join(self, other: Machine) -> None:
        """What another has found, too."""
        self.ends += [end for end in other.ends if end not in self.ends]
        for edge, labels in other.edges.items():
            mine = self.edges.setdefault(edge, [])
            mine += [label for label in labels if label not in mine]

    def _after(self, path: tuple[str, ...]) -> tuple[str, bool]:
        conversation = Conversation()
        self._begin(conversation)
        for name in path:
            self._events[name](conversation)
        return self._observe(conversation)


def request() -> Machine:
    """A run that somebody asks for while another has the model."""
    events: dict[str, Event] = {
        "its turn": lambda one: one.ask(one.other, "rkllm.abort"),
        "a result": lambda one: None if one.isWaiting() else one.wait(1),
        "abort": lambda one: one.ask(one.asker, "rkllm.abort"),
        "SIGTERM": lambda one: one.shutDown(),
    }

    def last(one: Conversation) -> None:
        if not one.isWaiting():
            one.wait(5)

    kinds = [
        Machine(asking(MANY, 40), {**events, "its deadline": lambda one: one.wait(40)}, stateOfRun),
        Machine(asking("one two three", None), {**events, "its last result": last}, stateOfRun),
        Machine(asking(f"{FAILS} after two", None), {**events, "the runtime fails": last}, stateOfRun),
    ]
    whole, *others = (kind.explore() for kind in kinds)
    for other in others:
        whole.join(other)
    return whole


def asking(prompt: str, deadline: float | None) -> Event:
    """How it begins: another has the model for long, and then comes a run with this prompt."""

    def begin(one: Conversation) -> None:
        one.ask(one.other, "rkllm.init", {"model_path": "any"})
        one.ask(one.other, "rkllm.run", {"prompt_input": MANY})
        one.run(prompt, deadline)

    return begin


def stateOfRun(one: Conversation) -> tuple[str, bool]:
    """What can be seen of the run, and whether that is its end."""
    lines = one.lines()
    last = lines[-1] if lines else {}
    if "error" in last:
        return f"error {last['error']['code']}", True
    result = last.get("result", {})
    if result.get("_callback_state", 0) > 1:
        wrong = result.get("error")
        return f"state 3, {wrong['code']}" if wrong else f"finish: {result['finish_reason']}", True
    if lines:
        return "streaming", False
    return ("waiting" if one.isWaiting() else "running"), False


def backend() -> Machine:
    """What ``server.status`` says of the backend."""
    events: dict[str, Event] = {
        "init": lambda one: one.ask(one.other, "rkllm.init", {"model_path": "any"}),
        "run": lambda one: one.ask(one.other, "rkllm.run", {"prompt_input": "one two"}),
        "its last result": lambda one: one.wait(5),
        "abort": lambda one: one.ask(one.other, "rkllm.abort"),
        "destroy": lambda one: one.ask(one.other, "rkllm.destroy"),
    }
    return Machine(lambda one: None, events, lambda one: (one.status()["backend"]["state"], False)).explore()


def picture(machine: Machine) -> Iterator[str]:
    """An SVG: what may go on at the left, ends at the right."""
    moving = list(dict.fromkeys(state for edge in machine.edges for state in edge if state not in machine.ends))
    places = {state: (LEFT, 10 + row * ROW) for row, state in enumerate(moving)}
    places |= {state: (LEFT + BOX + GAP, 10 + row * ROW * 2 // 3) for row, state in enumerate(machine.ends)}
    drawn: list[str] = []
    seen = dict.fromkeys(places, 0)
    for (before, after), labels in machine.edges.items():
        if before != after:
            drawn += _arrow(places[before], places[after], ", ".join(labels), seen[before])
            seen[before] += 1
    for state, (x, y) in places.items():
        drawn += box(x, y, BOX, HEIGHT, "#e8e8e8" if state in machine.ends else "#dbe9ff", state)
    right, bottom = (max(place[axis] for place in places.values()) for axis in (0, 1))
    yield from framed(right + BOX + 80, bottom + 50, drawn)


def _arrow(begin: tuple[int, int], end: tuple[int, int], label: str, number: int) -> Iterator[str]:
    if begin[0] == end[0]:  # up or down, beside each other
        side = begin[0] + BOX // 2 + (24 if begin[1] < end[1] else -24) + 12 * (abs(end[1] - begin[1]) // ROW - 1)
        start, stop = (side, begin[1] + HEIGHT), (side, end[1])
        if begin[1] > end[1]:
            start, stop = (side, begin[1]), (side, end[1] + HEIGHT)
        x, y, anchor = side, (start[1] + stop[1]) // 2 + 4, "start" if begin[1] < end[1] else "end"
    else:
        start, stop = (begin[0] + BOX, begin[1] + HEIGHT // 2), (end[0], end[1] + HEIGHT // 2)
        share = 0.18 + 0.16 * number + 0.05 * (begin[1] // ROW)
        x, y = (round(start[0] + (stop[0] - start[0]) * share), round(start[1] + (stop[1] - start[1]) * share) - 3)
        anchor = "middle"
    yield f'<path d="M{start[0]} {start[1]}L{stop[0]} {stop[1]}" stroke="#333" fill="none" marker-end="url(#tip)"/>'
    for look in (' stroke="#fff" stroke-width="4"', ""):  # white below the words, where lines cross them
        yield f'<text x="{x}" y="{y}" text-anchor="{anchor}"{look}>{escape(label)}</text>'


def table(machine: Machine) -> Iterator[str]:
    """The same in words."""
    yield from ("", "| from | by | to |", "|---|---|---|")
    for (before, after), labels in machine.edges.items():
        if before != after:
            yield f"| {before} | {', '.join(labels)} | {after} |"


HEAD = """# States

**Generated** by `scripts/diagrams.py`, which puts a server in memory through every order of a few events and looks at
what it says after each. What leaves a state as it is is left out. [The error codes](../reference/errors.md) are on
their own page.
"""
MACHINES = {
    "A run": (
        "request",
        request,
        "Somebody else has the model when it comes. Each end is the request's one last line.",
    ),
    "The backend": ("backend", backend, "What `server.status` says of it. While a slow model is loaded it is `busy`."),
}


def pages() -> dict[Path, Iterable[str]]:
    """The page and its pictures, each as lines."""
    lines, written = HEAD.splitlines(), {}
    for title, (name, make, words) in MACHINES.items():
        machine = make()
        written[PAGE.with_name(f"states-{name}.svg")] = list(picture(machine))
        lines += ["", f"## {title}", "", words, "", f"![{title}](states-{name}.svg)", *table(machine)]
    return {PAGE: lines, **written}


if __name__ == "__main__":
    for path, lines in pages().items():
        path.write_text("\n".join(lines) + "\n")

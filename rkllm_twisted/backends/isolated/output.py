"""What a child prints, as log events: a runtime chatters, and may do so without end."""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger

log = Logger(namespace="rkllm_twisted.runtime")  # as an attribute of a class it would have the name of that
RATE = 50
"""Lines in a second that are logged; the rest are counted."""
LONGEST = 2000
"""Bytes of a line that are logged."""


class Output:
    """One stream of a child.

    Args:
        clock: Tells the time.
        name: Of the stream.
    """

    def __init__(self, clock: Any, name: str) -> None:
        self._clock = clock
        self._name = name
        self._unfinished = b""
        self._second = 0
        self._count = 0

    def received(self, data: bytes) -> None:
        """Take the next bytes."""
        *lines, rest = (self._unfinished + data).split(b"\n")
        self._unfinished = rest[:LONGEST]
        for line in lines:
            self._line(line)

    def ended(self) -> None:
        """There will be no more."""
        if self._unfinished:
            self._line(self._unfinished)
        self._unfinished = b""
        self._tellDropped()

    def _line(self, line: bytes) -> None:
        second = int(self._clock.seconds())
        if second != self._second:
            self._tellDropped()
            self._second, self._count = second, 0
        self._count += 1
        if self._count <= RATE and line.strip():
            text = printable(line[:LONGEST].decode("utf-8", "replace"))
            log.info("{stream}: {line}", stream=self._name, line=text)

    def _tellDropped(self) -> None:
        if self._count > RATE:
            log.warn("{stream}: {count} more lines", stream=self._name, count=self._count - RATE)
            self._count = 0


def printable(text: str) -> str:
    """A text without characters that could control a terminal or end a line of a log."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)

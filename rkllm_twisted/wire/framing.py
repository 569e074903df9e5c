"""Bytes of a stream into whole messages, in time linear in the bytes (W-LINE, W-SPLIT, W-BARE, W-LIMIT)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

BARE_BYTES = 64 * 1024
"""The longest message that may lack its line feed."""
BARE_TRIES = 32
"""How often an unfinished line is tried as a message that lacks its line feed."""

# Where a document ends is all that is wanted; an int of thousands of digits is refused by Python.
_scan = json.JSONDecoder(parse_int=float).raw_decode
_BLANK = b" \t\r"
_BLANKS = frozenset(" \t\r")


class LineTooLong(Exception):
    """A line has more bytes than the limit; the stream cannot be followed any further."""


class Framing:
    """Cuts a stream of bytes at its line feeds, and after complete JSON objects and arrays at the end of what has come.

    Every byte is searched for a line feed once and copied at most twice, whatever the size of the pieces it arrives in.
    At most ``limit`` bytes of an unfinished line are kept.

    Args:
        limit: The longest line accepted, in bytes, its ending not counted.
    """

    __slots__ = ("_limit", "_tries", "_unfinished")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._unfinished = bytearray()
        self._tries = 0

    @property
    def isUnfinished(self) -> bool:
        """Whether a line has begun that has not ended."""
        return bool(self._unfinished)

    def receive(self, data: bytes) -> Iterable[bytes]:
        """Take the next bytes of the stream.

        Returns:
            Each line that they complete, without its ending and without blanks around it; empty ones are left out. And
            each message that lacks its line feed. To be gone through to its end before the next bytes are taken.

        Raises:
            LineTooLong: While that is gone through, after the messages before the line that is too long.
        """
        if self._unfinished or len(data) > self._limit or data[-1:] != b"\n":
            return self._pieces(data)
        # Whole lines and nothing else, as most packets are: 0.5 us instead of 1.1 for a line.
        return [line for ended in data.split(b"\n") if (line := ended.strip(_BLANK))]

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        *ended, rest = data.split(b"\n")
        for line in ended:
            self._keep(line)
            yield from self._taken()
        self._keep(rest)
        if self._mayBeBare():
            yield from self._bare()

    def end(self) -> Iterator[bytes]:
        """Take the end of the stream: what it left without a line ending is a message too."""
        yield from self.receive(b"\n")

    def _keep(self, data: bytes) -> None:
        # One byte more than the limit may be the CR of the line's ending.
        if len(self._unfinished) + len(data) > self._limit + 1:
            raise LineTooLong
        self._unfinished += data

    def _taken(self) -> Iterator[bytes]:
        """A line that has ended."""
        line = bytes(self._unfinished.strip(_BLANK))
        self._unfinished.clear()
        self._tries = 0
        if line:
            yield line

    def _mayBeBare(self) -> bool:
        """Whether the bytes so far may be messages whose line feed was left out (W-BARE)."""
        line = self._unfinished
        return len(line) <= BARE_BYTES and self._tries < BARE_TRIES and line.endswith((b"}", b"]"))

    def _bare(self) -> Iterator[bytes]:
        self._tries += 1
        *documents, rest = documentsOf(bytes(self._unfinished))
        if documents:
            self._unfinished[:] = rest
            self._tries = 0
            yield from documents


def documentsOf(line: bytes) -> list[bytes]:
    """Cut complete JSON objects and arrays off the front of a line.

    Args:
        line: Without a line feed.

    Returns:
        These, and at last what is left, which is nothing, the beginning of one more, or no JSON at all.
    """
    documents = []
    text = line.decode("latin-1")  # one character a byte, so that a place in the text is a place in the line
    place = _afterBlanks(text, 0)
    while text[place : place + 1] in ("{", "["):
        try:
            _, end = _scan(text, place)
        except (ValueError, RecursionError):
            break
        documents.append(line[place:end])
        place = _afterBlanks(text, end)
    return [*documents, line[place:]]


def _afterBlanks(text: str, place: int) -> int:
    while text[place : place + 1] in _BLANKS:
        place += 1
    return place

"""Bytes of a stream into whole messages, in time linear in the bytes (W-LINE, W-SPLIT, W-LIMIT)."""

from __future__ import annotations

from collections.abc import Iterator


class LineTooLong(Exception):
    """A line has more bytes than the limit; the stream cannot be followed any further."""


class Framing:
    """Cuts a stream of bytes at its line feeds.

    Every byte is searched once and copied at most twice, whatever the size of the pieces it arrives in. At most
    ``limit`` bytes of an unfinished line are kept.

    Args:
        limit: The longest line accepted, in bytes, its ending not counted.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._unfinished = bytearray()

    def receive(self, data: bytes) -> Iterator[bytes]:
        """Take the next bytes of the stream.

        Yields:
            Each message that they complete, without its line ending; empty lines are left out.

        Raises:
            LineTooLong: After the messages before the line that is too long.
        """
        *ended, rest = data.split(b"\n")
        for line in ended:
            self._keep(line)
            message = bytes(self._unfinished.removesuffix(b"\r"))
            self._unfinished.clear()
            if message:
                yield message
        self._keep(rest)

    def end(self) -> Iterator[bytes]:
        """Take the end of the stream: what it left without a line ending is a message too."""
        yield from self.receive(b"\n")

    def _keep(self, data: bytes) -> None:
        # One byte more than the limit may be the CR of the line's ending.
        if len(self._unfinished) + len(data) > self._limit + 1:
            raise LineTooLong
        self._unfinished += data

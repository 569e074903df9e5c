"""Bytes of tokens into whole characters (W-UTF8)."""

from __future__ import annotations

import codecs


class WholeCharacters:
    """Joins the bytes of successive tokens so that every text handed on is whole characters.

    Bytes that can never become a character turn into U+FFFD as soon as that is known.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, piece: bytes) -> str | None:
        """The text that is whole now; None while all there is belongs to an unfinished character."""
        text = self._decoder.decode(piece)
        return text if text or not self.isWaiting() else None

    def isWaiting(self) -> bool:
        """Whether bytes of an unfinished character are held back."""
        return bool(self._decoder.getstate()[0])

    def end(self) -> str | None:
        """U+FFFD for an unfinished character that will get no further bytes, else None."""
        return self._decoder.decode(b"", final=True) or None

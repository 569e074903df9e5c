"""The bytes that results bring, as text of whole characters."""

from __future__ import annotations

from rkllm_twisted.backends.utf8 import WholeCharacters


class Pieces:
    """Joins the texts of the results of one input.

    In the state NORMAL a text is said to be whole characters (manual 1.3.0, section 3.2.1); where it is not, it is
    joined to the next. What a WAITING brings differs: nothing on 1.3.1 (measured by dmmdea/offload-harness), where the
    whole character comes with the next NORMAL; the vendor's Python demo of 1.1 joined the bytes of both states. So its
    bytes are kept until the next text shows whether it continues them.
    """

    def __init__(self) -> None:
        self._characters = WholeCharacters()
        self._waiting = b""
        self._isBetween = True
        """Whether no bytes of an unfinished character are held back."""

    def add(self, piece: bytes, isWaiting: bool) -> str | None:
        """Take the text of a result.

        Args:
            piece: Its bytes; there may be none.
            isWaiting: Whether its state is WAITING.

        Returns:
            What is whole now; None where nothing is.
        """
        if self._isBetween and not isWaiting and piece.isascii():  # 0.1 us instead of 0.4
            return piece.decode("ascii") or None
        whole = self._joined(piece, isWaiting)
        self._isBetween = not self.isWaiting()
        return whole

    def _joined(self, piece: bytes, isWaiting: bool) -> str | None:
        if piece and _continues(piece):
            piece = self._waiting + piece
        if isWaiting:
            self._waiting = piece or self._waiting
            return None
        self._waiting = b"" if piece else self._waiting
        return self._characters.add(piece) or None

    def isWaiting(self) -> bool:
        """Whether bytes of an unfinished character are held back."""
        return bool(self._waiting) or self._characters.isWaiting()

    def end(self) -> str | None:
        """U+FFFD for an unfinished character that will get no further bytes, else None."""
        left, self._waiting = self._waiting, b""
        whole = self._characters.add(left) or ""
        return whole + (self._characters.end() or "") or None


def _continues(piece: bytes) -> bool:
    """Whether it begins in the middle of a character."""
    return 0x80 <= piece[0] < 0xC0

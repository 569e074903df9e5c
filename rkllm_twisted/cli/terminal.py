"""What the command writes, and what of it only a terminal gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TextIO

_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}
_PICTURES |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
"""Control characters into signs for them: an answer must not move the cursor or rename the window."""

_ERASE = "\r\x1b[K"
_BOLD, _DIM, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"


class Terminal:
    """Answers go to standard output, everything else to standard error; each call writes through at once.

    Every method raises BrokenPipeError where the reader has gone.

    Args:
        stdout: Standard output.
        stderr: Standard error.
        environ: The environment: ``NO_COLOR`` and ``TERM=dumb`` are honoured.
    """

    def __init__(self, stdout: TextIO, stderr: TextIO, environ: Mapping[str, str]) -> None:
        self._stdout = stdout
        self._stderr = stderr
        isCapable = environ.get("TERM") != "dumb"
        self.isInteractive = stdout.isatty()
        """Whether somebody reads the answer as it is written."""
        self.showsProgress = stderr.isatty() and isCapable
        """Whether a progress line is worth keeping up."""
        self._isColoured = isCapable and not environ.get("NO_COLOR")
        self._isAtLineStart = True
        self._hasProgress = False

    def write(self, text: str) -> None:
        """A piece of the answer."""
        if not text:
            return
        self.erase()
        self._isAtLineStart = text.endswith("\n")
        self._stdout.write(text.translate(_PICTURES) if self.isInteractive else text)
        self._stdout.flush()

    def endLine(self) -> None:
        """End the line of the answer, unless it has ended."""
        if not self._isAtLineStart:
            self.write("\n")

    def typedInto(self) -> None:
        """The terminal has shown something that was typed, so that its line is not empty any more."""
        self._isAtLineStart = self._isAtLineStart and not self.isInteractive

    def line(self, text: str) -> None:
        """A whole line on standard output."""
        self.endLine()
        self.write(f"{text}\n")

    def note(self, text: str) -> None:
        """A line on standard error, beside the answer."""
        self.endLine()
        isDim = self._isColoured and self._stderr.isatty()
        self._tell(f"{_DIM}{text}{_PLAIN}\n" if isDim else f"{text}\n")

    def error(self, text: str) -> None:
        """The one line that says what went wrong."""
        self.endLine()
        self._tell(f"rkllm: {' '.join(text.split())}\n")

    def progress(self, text: str) -> None:
        """A line on standard error that whatever is written next replaces; nothing where that is no terminal."""
        if self.showsProgress:
            self.endLine()  # it takes its whole line with it
            self._tell(text)
            self._hasProgress = True

    def erase(self) -> None:
        """Take the progress line back."""
        if self._hasProgress:
            self._hasProgress = False
            self._stderr.write(_ERASE)
            self._stderr.flush()

    def prompt(self, text: str) -> str:
        """The prompt of an interactive loop, for ``input``: bold, spelled so that readline knows its width."""
        if not self.isInteractive:
            return ""
        # \x01 and \x02 tell readline that what is between them takes no room.
        return f"\x01{_BOLD}\x02{text}\x01{_PLAIN}\x02" if self._isColoured else text

    def _tell(self, text: str) -> None:
        self.erase()
        self._stderr.write(text)
        self._stderr.flush()


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows of equally many cells as lines, the cells below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]

"""What a check returns, and what all of them come to."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct


class State(Enum):
    """How what was looked at is."""

    OK = "ok"
    WARNING = "warning"
    """It works, but not as well as it should, or cannot be told for certain."""
    PROBLEM = "problem"
    """It keeps what needs it from working."""
    ABSENT = "absent"
    """It is not there, which is no fault by itself: a PC has no NPU."""


class Finding(Struct):
    """What one check found."""

    name: str
    """What was looked at, in a word or two."""
    state: State
    found: str
    """What was seen, in plain words."""
    todo: str = ""
    """What to do about it; empty where there is nothing to do."""

    @property
    def isFit(self) -> bool:
        """Whether what needs this can work."""
        return self.state in (State.OK, State.WARNING)


class Report(Struct):
    """What the whole examination found."""

    serves: list[str]
    """The names of the backends that can serve here, the most preferred first."""
    start: str | None
    """The command that starts the daemon with the first of them."""
    findings: list[Finding]

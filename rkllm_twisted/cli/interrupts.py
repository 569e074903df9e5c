"""Ctrl-C, and SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

Act = Callable[[], object]


class Interrupts:
    """The first Ctrl-C asks what is going on to end, the second leaves at once.

    Args:
        callFromThread: The reactor's; a signal comes between any two instructions, so what it asks for is put in line.
        leave: Ends the process at once, from within the signal's own call.
        noticed: Called each time, from there too; the terminal has shown ``^C``.
    """

    def __init__(self, callFromThread: Callable[[Act], object], leave: Act, noticed: Act) -> None:
        self._callFromThread = callFromThread
        self._leave = leave
        self._noticed = noticed
        self._end: Act = leave
        self.hasHappened = False
        """Whether there was one, since the beginning or since the last `forget`."""

    def install(self, end: Act) -> None:
        """Take over SIGINT. Before the reactor runs, which then leaves it alone.

        Args:
            end: Ends whatever goes on, where nothing else was said with `ending`.
        """
        self._end = end
        signal.signal(signal.SIGINT, lambda _signum, _frame: self.interrupted())

    def installTermination(self, leave: Act) -> None:
        """Take over SIGTERM. When the reactor runs, which has taken it over first.

        Args:
            leave: Ends the process at once, from within the signal's own call.
        """
        signal.signal(signal.SIGTERM, lambda _signum, _frame: leave())

    def interrupted(self) -> None:
        """Ctrl-C was pressed."""
        self._noticed()
        if self.hasHappened:
            self._leave()
        self.hasHappened = True
        # The end that is meant now, not when its turn comes: by then something else may have begun.
        self._callFromThread(self._end)

    def forget(self) -> None:
        """The one before has been dealt with: the next counts as the first."""
        self.hasHappened = False

    @contextmanager
    def ending(self, end: Act) -> Iterator[None]:
        """While in this, Ctrl-C does ``end`` instead."""
        before, self._end = self._end, end
        try:
            yield
        finally:
            self._end = before

    @contextmanager
    def asKeyboardInterrupt(self) -> Iterator[None]:
        """While in this, Ctrl-C raises KeyboardInterrupt, as ``input`` needs it. For the main thread.

        SIGTERM raises SystemExit: Twisted's own way with it would wait for the reactor, which ``input`` holds up.
        """
        onInterrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
        onTermination = signal.signal(signal.SIGTERM, _terminated)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, onInterrupt)
            signal.signal(signal.SIGTERM, onTermination)


def _terminated(signum: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + signum)

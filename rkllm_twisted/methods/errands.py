"""Errands: what needs the model for something else than a generation."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from rkllm_twisted.errors import Cancelled
from rkllm_twisted.methods.table import Answer
from rkllm_twisted.scheduling.scheduler import Scheduler, Turn


class Errand:
    """Waits for its turn with the model, and has the model until it is done.

    Args:
        scheduler: Gives the turn.
        owner: Whose turn it is.
        subject: What it is for.
        work: Called when the turn has come; the turn ends when its Deferred fires.

    Attributes:
        done: Fires as ``work``'s Deferred does, or fails with Cancelled or ShuttingDown.

    Raises:
        Busy, ShuttingDown: There is no turn to be had.
    """

    def __init__(
        self, scheduler: Scheduler, owner: Hashable, subject: object, work: Callable[[], Deferred[Answer]]
    ) -> None:
        self.done: Deferred[Answer] = Deferred()
        self._work = work
        self._turn = scheduler.request(owner, self._begun, self.done.errback, subject)

    def withdraw(self) -> None:
        """Leave the line; once the turn has come this does nothing."""
        if self._turn.withdraw():
            self.done.errback(Cancelled())

    def giveUp(self, failure: Failure) -> Failure | None:
        """Leave the line because of a failure; once the turn has come, the failure is the work's and handed back."""
        if not self._turn.withdraw():
            return failure
        self.done.errback(failure)
        return None

    def _begun(self, turn: Turn) -> None:
        maybeDeferred(self._work).addBoth(self._ended, turn)

    def _ended(self, outcome: Answer | Failure, turn: Turn) -> None:
        turn.end()
        self.done.callback(outcome)  # a Failure makes it fail

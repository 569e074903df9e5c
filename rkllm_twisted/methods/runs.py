"""What takes turns with the model: runs, from their place in the line to their last line, and errands."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure
from zope.interface import implementer

from rkllm_twisted.errors import Cancelled, RKLLMError
from rkllm_twisted.interfaces import IGeneration, IResultReceiver
from rkllm_twisted.methods.table import Answer, wireError
from rkllm_twisted.scheduling.scheduler import Scheduler, Turn
from rkllm_twisted.values import CallState, EncodedResult, RKLLMPerfStat, RKLLMResult
from rkllm_twisted.wire.connection import Connection
from rkllm_twisted.wire.streams import LineStream

Start = Callable[[IResultReceiver], IGeneration]
"""Starts the generation; raises if it cannot be started."""


@implementer(IResultReceiver)
class Run:
    """A generation that waits for its turn, runs, and is spelled as a stream.

    Args:
        owner: Whose it is.
        stream: Where its results go.
        start: Starts it, when its turn has come.
        ended: Called once, with the run, when it has ended and its last line is written.
    """

    def __init__(self, owner: Connection, stream: LineStream, start: Start, ended: Callable[[Run], object]) -> None:
        self.owner = owner
        self._stream = stream
        self._start = start
        self._ended = ended
        self._turn: Turn | None = None
        self._generation: IGeneration | None = None

    @property
    def isRunning(self) -> bool:
        """Whether its turn has come and has not ended."""
        return self._generation is not None

    def enter(self, scheduler: Scheduler) -> None:
        """Wait for a turn.

        Raises:
            Busy, ShuttingDown: There is none to be had.
        """
        self._turn = scheduler.request(self.owner, self._begun, self._failed)

    def abort(self) -> None:
        """End the run, waiting or running. Its last line still comes."""
        if self._generation is not None:
            self._generation.abort()
        elif self._turn is not None and self._turn.withdraw():
            self._failed(Cancelled())

    def _begun(self, turn: Turn) -> None:
        self._turn = turn
        try:
            self._generation = self._start(self)
        except Exception:  # noqa: BLE001  # a start that fails must still give the turn back
            self.generationFailed(Failure())

    def resultReceived(self, result: RKLLMResult | EncodedResult, state: CallState) -> None:
        """A line of the stream."""
        self._stream.result(result, state)

    def generationFinished(self, perf: RKLLMPerfStat, reason: str | None) -> None:
        """The last line, then the next turn."""
        self._stream.finish(perf, reason)
        self._end()

    def generationFailed(self, failure: Failure) -> None:
        """The last line, then the next turn."""
        self._stream.fail(wireError(failure, "a generation failed"))
        self._end()

    def _failed(self, error: RKLLMError) -> None:
        """It never had a turn."""
        self._stream.fail(error)
        self._ended(self)

    def _end(self) -> None:
        self._ended(self)
        if self._turn is not None:
            self._turn.end()


class Errand:
    """Something else than a generation that needs the model: it waits for its turn, and has the model until it is done.

    Args:
        scheduler: Gives the turn.
        owner: Whose turn it is.
        work: Called when the turn has come; the turn ends when its Deferred fires.

    Attributes:
        done: Fires as ``work``'s Deferred does, or fails with Cancelled or ShuttingDown.

    Raises:
        Busy, ShuttingDown: There is no turn to be had.
    """

    def __init__(self, scheduler: Scheduler, owner: Hashable, work: Callable[[], Deferred[Answer]]) -> None:
        self.done: Deferred[Answer] = Deferred()
        self._work = work
        self._turn = scheduler.request(owner, self._begun, self.done.errback)

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

"""Runs: generations, from their place in the line to their last line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from rkllm_twisted.errors import BackendLost, Cancelled, DeadlinePassed, ReaderTooSlow, ResultTooLarge, RKLLMError
from rkllm_twisted.interfaces import IGeneration, IResultReceiver
from rkllm_twisted.methods.roots import OpenedFile
from rkllm_twisted.methods.table import wireError
from rkllm_twisted.scheduling.scheduler import Alarm, Scheduler, Time, Turn
from rkllm_twisted.values import Received, RKLLMPerfStat
from rkllm_twisted.wire.connection import Call
from rkllm_twisted.wire.streams import LineStream


@implementer(IResultReceiver)
class Run:
    """A generation that waits for its turn, runs, and is spelled as a stream.

    Args:
        call: What asked for it.
        stream: Where its results go.
        start: Called with the run when its turn has come: starts a generation whose results the run receives.
        ended: Called once, with the run, when its last line is written and the model is free of it.

    Attributes:
        call: What asked for it.
        owner: The connection of the call.
        hasRun: Whether the model has begun it.
        hasFinished: Whether its last line was a finish line.
        finishedWith: What the last line says besides the figures, such as ``history_lost``.
        lostWith: Gives what an error says besides, if the backend was lost.
        saves: Where it saves its prompt's cache, if it does.
        tokens: How many tokens it has generated.
    """

    def __init__(
        self,
        call: Call,
        stream: LineStream,
        start: Callable[[Run], Deferred[IGeneration]],
        ended: Callable[[Run], object],
    ) -> None:
        self.call = call
        self.owner = call.connection
        self.hasRun = False
        self.hasFinished = False
        self.finishedWith: dict[str, object] = {}
        self.lostWith: Callable[[], dict[str, object]] = dict
        self.saves: OpenedFile | None = None
        self.tokens = 0
        self._stream = stream
        self._start = start
        self._ended = ended
        self._turn: Turn | None = None
        self._alarm: Alarm | None = None
        self._generation: IGeneration | None = None
        self._isRunning = False
        self._isAborted = False

    @property
    def isRunning(self) -> bool:
        """Whether its turn has come and has not ended."""
        return self._isRunning

    def enter(self, scheduler: Scheduler, deadline: float | None = None) -> None:
        """Wait for a turn.

        Args:
            scheduler: Gives it.
            deadline: Seconds from now to the last line; None is no limit.

        Raises:
            Busy, ShuttingDown: There is none to be had.
        """
        if deadline is not None:
            self._alarm = scheduler.clock.callLater(deadline, lambda: self._expired(deadline))
        self._turn = scheduler.request(self.owner, self._begun, self._refused, self.call)

    def abort(self) -> None:
        """End the run, waiting or running. Its last line still comes."""
        if self._isRunning:
            self._isAborted = True
            if self._generation is not None:
                self._generation.abort()
        elif self._turn is not None and self._turn.withdraw():
            self._refused(Cancelled())

    def giveUp(self, error: RKLLMError) -> None:
        """End the run, waiting or running, with an error as its last line."""
        # What the generation still says, its ending included, is written nowhere: the call has had its last line.
        self._stream.fail(error)
        self.abort()

    def _expired(self, deadline: float) -> None:
        self._alarm = None
        self.giveUp(DeadlinePassed(f"it was to be answered within {deadline} s", waited=deadline))

    def _begun(self, turn: Turn) -> None:
        self._turn = turn
        self._isRunning = True
        maybeDeferred(self._start, self).addCallbacks(self._started, self.generationFailed)

    def _started(self, generation: IGeneration) -> None:
        self.hasRun = True
        self._generation = generation
        if self._isAborted:
            generation.abort()

    def resultsReceived(self, results: Sequence[Received]) -> None:
        """Lines of the stream."""
        self.tokens += sum([result.isToken for result, _state in results])
        try:
            self._stream.results(results)
        except (ReaderTooSlow, ResultTooLarge) as error:
            self.giveUp(error)

    def generationFinished(self, perf: RKLLMPerfStat, reason: str | None) -> None:
        """The last line, then the next turn."""
        self.hasFinished = self._stream.finish(perf, reason, **self.finishedWith)
        self._end()

    def generationFailed(self, failure: Failure) -> None:
        """The last line, then the next turn."""
        error = wireError(failure, "a generation failed")
        if self.saves is not None:
            self.saves.named(error)
        if isinstance(error, BackendLost):
            error.data.update(self.lostWith())
        self._stream.fail(error)
        self._end()

    def _refused(self, error: RKLLMError) -> None:
        """It never had a turn."""
        self._stream.fail(error)
        self._forget()

    def _end(self) -> None:
        self._isRunning = False
        self._forget()
        if self._turn is not None:
            self._turn.end()

    def _forget(self) -> None:
        alarm, self._alarm = self._alarm, None
        if alarm is not None:
            alarm.cancel()
        self._ended(self)


class OpenRuns:
    """The runs that have not had their last line, in the order in which they came.

    Args:
        clock: Tells the time.
    """

    def __init__(self, clock: Time) -> None:
        self._clock = clock
        self._runs: dict[Run, None] = {}
        self._drained: Deferred[None] | None = None
        self._impatience: Alarm | None = None

    def __iter__(self) -> Iterator[Run]:
        return iter(list(self._runs))

    def add(self, run: Run) -> None:
        """There is one more."""
        self._runs[run] = None

    def remove(self, run: Run) -> None:
        """It has had its last line."""
        del self._runs[run]
        if not self._runs and self._drained is not None:
            if self._impatience is not None:
                self._impatience.cancel()
            self._stopDraining()

    def drain(self, patience: float) -> Deferred[None]:
        """Fires when there is none any more, or after so many seconds."""
        if not self._runs or not patience:
            return succeed(None)
        drained = self._drained = Deferred()
        self._impatience = self._clock.callLater(patience, self._stopDraining)
        return drained

    def _stopDraining(self) -> None:
        drained, self._drained, self._impatience = self._drained, None, None
        if drained is not None:
            drained.callback(None)

"""Turns with the model: one at a time, the next when the last has ended."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Protocol

from rkllm_twisted.errors import Busy, DeadlinePassed, RKLLMError, ShuttingDown
from rkllm_twisted.scheduling.queue import FairQueue

MAX_QUEUE = 64
"""Turns that wait, all owners together, unless another limit is given (W-TURNS)."""


class Alarm(Protocol):
    """A call that waits for its time."""

    def cancel(self) -> None:
        """Not any more."""


class Time(Protocol):
    """What tells the time: a reactor, or a clock of a test."""

    def seconds(self) -> float:
        """Since some moment."""

    def callLater(self, delay: float, callable: Callable[[], object]) -> Alarm:
        """Call it after so many seconds."""


class Turn:
    """A place in the line, and then the time with the model until `end`.

    Attributes:
        owner: Whose it is.
        subject: What it is for; for whoever looks at the line.
        since: When it entered the line, by the scheduler's clock.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        owner: Hashable,
        subject: object,
        begun: Callable[[Turn], object],
        refused: Callable[[RKLLMError], object],
    ) -> None:
        self.owner = owner
        self.subject = subject
        self.since = scheduler.clock.seconds()
        self._scheduler = scheduler
        self._begun = begun
        self._refused = refused
        self._alarm: Alarm | None = None

    def limit(self, patience: float) -> None:
        """Refuse it with DeadlinePassed if it still waits after so many seconds."""
        self._alarm = self._scheduler.clock.callLater(patience, self._expired)

    def begin(self) -> None:
        """It has the model."""
        self.silence()
        self._begun(self)

    def refuse(self, error: RKLLMError) -> None:
        """It will never have the model."""
        self.silence()
        self._refused(error)

    def silence(self) -> None:
        """Its waiting is over."""
        alarm, self._alarm = self._alarm, None
        if alarm is not None:
            alarm.cancel()

    def withdraw(self) -> bool:
        """Leave the line.

        Returns:
            True if the turn was waiting, and now will never begin; False if it has begun.
        """
        return self._scheduler.withdraw(self)

    def end(self) -> None:
        """Give the model to the next. Only for a turn that has begun, and once."""
        self._scheduler.turnEnded(self)

    def _expired(self) -> None:
        self._alarm = None
        self.withdraw()
        waited = self._scheduler.clock.seconds() - self.since
        self._refused(DeadlinePassed(f"it waited {waited:.1f} s for its turn", waited=waited))


class Scheduler:
    """Gives turns with the model.

    Args:
        clock: Tells the time.
        limit: The most turns that wait, all owners together.
        patience: Seconds after which a turn that still waits is refused; None is no limit.
    """

    def __init__(self, clock: Time, limit: int = MAX_QUEUE, patience: float | None = None) -> None:
        self.clock = clock
        self.limit = limit
        self.running: Turn | None = None
        self._patience = patience
        self._waiting: FairQueue[Turn] = FairQueue()
        self._isClosed = False
        self._isAdvancing = False

    @property
    def queueLength(self) -> int:
        """How many turns wait."""
        return len(self._waiting)

    def waiting(self) -> list[Turn]:
        """The turns that wait, in the order in which they would begin if no more came."""
        return self._waiting.inOrder()

    def request(
        self,
        owner: Hashable,
        begun: Callable[[Turn], object],
        refused: Callable[[RKLLMError], object],
        subject: object = None,
    ) -> Turn:
        """Ask for a turn.

        Args:
            owner: Whom it is for; owners take turns round robin.
            begun: Called with the turn when it has the model, perhaps at once.
            refused: Called with the reason if a waiting turn will never have it.
            subject: What it is for.

        Raises:
            Busy: The line is full.
            ShuttingDown: No turn begins any more.
        """
        self.checkRoom()
        turn = Turn(self, owner, subject, begun, refused)
        if self._patience is not None:
            turn.limit(self._patience)
        self._waiting.put(owner, turn)
        self._advance()
        return turn

    def checkRoom(self) -> None:
        """Raise what `request` would raise now."""
        if self._isClosed:
            raise ShuttingDown
        if self.queueLength >= self.limit:
            raise Busy(f"{self.queueLength} requests are waiting, no more may", queue_length=self.queueLength)

    def withdraw(self, turn: Turn) -> bool:
        """See `Turn.withdraw`."""
        try:
            self._waiting.remove(turn.owner, turn)
        except KeyError:
            return False
        turn.silence()
        return True

    def turnEnded(self, turn: Turn) -> None:
        """See `Turn.end`."""
        if self.running is not turn:
            raise ValueError("a turn ends once, and only after it has begun")
        self.running = None
        self._advance()

    def close(self) -> None:
        """Refuse every waiting turn and all that would come; the running one goes on."""
        self._isClosed = True
        while self._waiting:
            self._waiting.take().refuse(ShuttingDown())

    def _advance(self) -> None:
        # A turn may end while it begins: a loop, or a long line of such turns would be a deep recursion.
        if self._isAdvancing:
            return
        self._isAdvancing = True
        try:
            while self.running is None and self._waiting:
                self.running = self._waiting.take()
                self.running.begin()
        finally:
            self._isAdvancing = False

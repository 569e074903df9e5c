"""Turns with the model: one at a time, the next when the last has ended."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from rkllm_twisted.errors import Busy, RKLLMError, ShuttingDown
from rkllm_twisted.scheduling.queue import FairQueue


class Turn:
    """A place in the line, and then the time with the model until `end`."""

    def __init__(
        self,
        scheduler: Scheduler,
        owner: Hashable,
        begun: Callable[[Turn], object],
        refused: Callable[[RKLLMError], object],
    ) -> None:
        self.owner = owner
        self.begun = begun
        self.refused = refused
        self._scheduler = scheduler

    def withdraw(self) -> bool:
        """Leave the line.

        Returns:
            True if the turn was waiting, and now will never begin; False if it has begun.
        """
        return self._scheduler.withdraw(self)

    def end(self) -> None:
        """Give the model to the next. Only for a turn that has begun, and once."""
        self._scheduler.turnEnded(self)


class Scheduler:
    """Gives turns with the model.

    Args:
        limit: The most turns that wait, all owners together.
    """

    def __init__(self, limit: int = 64) -> None:
        self.running: Turn | None = None
        self._limit = limit
        self._waiting: FairQueue[Turn] = FairQueue()
        self._isClosed = False
        self._isAdvancing = False

    @property
    def queueLength(self) -> int:
        """How many turns wait."""
        return len(self._waiting)

    def request(
        self, owner: Hashable, begun: Callable[[Turn], object], refused: Callable[[RKLLMError], object]
    ) -> Turn:
        """Ask for a turn.

        Args:
            owner: Whom it is for; owners take turns round robin.
            begun: Called with the turn when it has the model, perhaps at once.
            refused: Called with the reason if a waiting turn will never have it.

        Raises:
            Busy: The line is full.
            ShuttingDown: No turn begins any more.
        """
        self.checkRoom()
        turn = Turn(self, owner, begun, refused)
        self._waiting.put(owner, turn)
        self._advance()
        return turn

    def checkRoom(self) -> None:
        """Raise what `request` would raise now."""
        if self._isClosed:
            raise ShuttingDown
        if self.queueLength >= self._limit:
            raise Busy(f"{self.queueLength} requests are waiting, no more may", queue_length=self.queueLength)

    def withdraw(self, turn: Turn) -> bool:
        """See `Turn.withdraw`."""
        try:
            self._waiting.remove(turn.owner, turn)
        except KeyError:
            return False
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
            self._waiting.take().refused(ShuttingDown())

    def _advance(self) -> None:
        # A turn may end while it begins: a loop, or a long line of such turns would be a deep recursion.
        if self._isAdvancing:
            return
        self._isAdvancing = True
        try:
            while self.running is None and self._waiting:
                self.running = self._waiting.take()
                self.running.begun(self.running)
        finally:
            self._isAdvancing = False

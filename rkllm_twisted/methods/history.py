"""Whose history is in the model's KV cache (W-HISTORY)."""

from __future__ import annotations

from weakref import WeakSet

from twisted.internet.defer import Deferred, maybeDeferred, succeed

from rkllm_twisted.interfaces import IModel
from rkllm_twisted.values import Capability
from rkllm_twisted.wire.connection import Connection


class History:
    """Keeps one connection's turns out of another's.

    The KV cache is the model's: what one run leaves there, the next may continue or reuse. Before a run of a peer that
    may not, it is cleared.
    """

    def __init__(self) -> None:
        self._owner: Connection | None = None
        """Who has turns in the cache that were made with ``keep_history``."""
        self._last: Connection | None = None
        """Who ran last."""
        self._epoch = 0
        """Of the model, when it was last looked at."""
        self._lost: WeakSet[Connection] = WeakSet()
        """Who had turns in the cache that another's run took away."""

    def enter(self, model: IModel, connection: Connection, keeps: bool) -> Deferred[None]:
        """Make the cache fit for a run.

        Args:
            model: The model that has the cache.
            connection: Whose run it is.
            keeps: Whether it keeps its history.

        Returns:
            Fires when the run may begin.
        """
        if model.epoch != self._epoch:
            self.forget()
            self._epoch = model.epoch
        mustClear = not (self._continues(connection) if keeps else self._mayReuse(connection))
        self._noteLoss(connection)
        self._owner = connection if keeps else None
        self._last = connection
        if not mustClear or Capability.CLEAR_KV_CACHE not in model.capabilities:
            return succeed(None)
        return maybeDeferred(model.clearKVCache, False, None)

    def isAnothers(self, connection: Connection) -> bool:
        """Whether what is in the cache is the history of another connection."""
        return self._owner not in (None, connection)

    def cleared(self, connection: Connection) -> None:
        """A connection has cleared the cache, or done what clears it; its own history it may have cleared in part."""
        if self.isAnothers(connection):
            self.forget(connection)

    def lossOf(self, connection: Connection, keeps: bool) -> dict[str, object]:
        """What the finish line of a run says of the history that was lost before it."""
        return {"history_lost": True} if keeps and connection in self._lost else {}

    def told(self, connection: Connection) -> None:
        """The connection has been told that its history was lost; a run without a finish line does not tell it."""
        self._lost.discard(connection)

    def died(self, connection: Connection) -> dict[str, object]:
        """The history of a connection is gone with the run that made it; what the error of that run says of it."""
        self.forget()
        self._lost.discard(connection)
        return {"history_lost": True}

    def forget(self, by: Connection | None = None) -> None:
        """The model is gone, and all history with it.

        Args:
            by: Who wanted it so, and has lost nothing by it.
        """
        self._noteLoss(by)
        self._owner = self._last = None

    def _noteLoss(self, by: Connection | None) -> None:
        """Whose history is in the cache loses it, unless that is who does what takes it away."""
        if self._owner not in (None, by):
            self._lost.add(self._owner)

    def _continues(self, connection: Connection) -> bool:
        """Whether all that is in the cache is this connection's own history."""
        return self._last is None or self._owner is connection

    def _mayReuse(self, connection: Connection) -> bool:
        """Whether a prefix of what is in the cache may be found again: of no history, and by the same user only."""
        if self._owner not in (None, connection):
            return False
        return self._last in (None, connection) or connection.isSameUser(self._last)

"""The methods that are about the conversation and the daemon, not about the model; and the whole table."""

from __future__ import annotations

from typing import Any

from msgspec import Raw, Struct

from rkllm_twisted._version import __version__
from rkllm_twisted.methods.openrpc import discover
from rkllm_twisted.methods.runtime import RuntimeMethods
from rkllm_twisted.methods.table import Answer, Method, MethodTable, NoParams
from rkllm_twisted.scheduling.scheduler import Scheduler
from rkllm_twisted.wire.connection import Call


class CancelParams(Struct, frozen=True):
    """Of ``$/cancelRequest``."""

    id: Raw
    """Of the request to cancel."""


class ServerMethods:
    """Carries these out.

    Args:
        runtime: The methods of the runtime.
        scheduler: Who waits, and the time.
    """

    def __init__(self, runtime: RuntimeMethods, scheduler: Scheduler) -> None:
        self._runtime = runtime
        self._scheduler = scheduler
        self._began = scheduler.clock.seconds()

    def methods(self) -> list[Method]:
        """The rows of the table."""
        return [
            Method("server.status", NoParams, self.status),
            Method("$/cancelRequest", CancelParams, self.cancelRequest),
        ]

    def status(self, call: Call, params: NoParams) -> Answer:
        """What the daemon is doing, and where the caller's own requests stand in the line."""
        waiting = self._scheduler.waiting()
        return {
            "version": __version__,
            "backend": {"name": self._runtime.backendName, "state": self._runtime.state},
            "model": self._runtime.held.name,
            "queue": {
                "length": len(waiting),
                "limit": self._scheduler.limit,
                "waiting": [
                    {"id": _idOf(turn.subject), "position": position}
                    for position, turn in enumerate(waiting, 1)
                    if turn.owner is call.connection
                ],
            },
            "uptime": round(self._scheduler.clock.seconds() - self._began, 3),
            "counters": {"models_loaded": self._runtime.held.count, **self._runtime.counters},
        }

    def cancelRequest(self, call: Call, params: CancelParams) -> Answer:
        """Cancel a request of the same connection; its last line still comes (W-CANCEL)."""
        cancelled = call.connection.find(bytes(params.id))
        if cancelled is not None:
            cancelled.cancel()
        return {"success": cancelled is not None}


def _idOf(subject: Any) -> Raw | None:
    """The id of a waiting call, as it came; none of a notification."""
    id = subject.id if isinstance(subject, Call) else None
    return None if id is None else Raw(id)


def makeTable(runtime: RuntimeMethods, scheduler: Scheduler) -> MethodTable:
    """All methods of the wire."""
    table = MethodTable([*runtime.methods(), *ServerMethods(runtime, scheduler).methods()])
    table.add(discover(table))
    return table

"""The methods that are about the conversation and the daemon, not about the model."""

from __future__ import annotations

from msgspec import Raw, Struct

from rkllm_twisted.methods.table import Answer, Method
from rkllm_twisted.wire.connection import Call


class CancelParams(Struct, frozen=True):
    """Of ``$/cancelRequest``."""

    id: Raw


class ServerMethods:
    """Carries these out."""

    def methods(self) -> list[Method]:
        """The rows of the table."""
        return [Method("$/cancelRequest", CancelParams, self.cancelRequest)]

    def cancelRequest(self, call: Call, params: CancelParams) -> Answer:
        """Cancel a request of the same connection; its last line still comes (W-CANCEL)."""
        cancelled = call.connection.find(bytes(params.id))
        if cancelled is not None:
            cancelled.cancel()
        return {"success": cancelled is not None}

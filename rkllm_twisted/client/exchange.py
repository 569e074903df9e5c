"""One request of the client and what has come back for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct, field
from twisted.internet.defer import Deferred

from rkllm_twisted.errors import RemoteError, RKLLMError, fromWire
from rkllm_twisted.values import CallState


class ErrorObject(Struct):
    """The ``error`` of a response, or inside the result of a generation that failed half-way."""

    code: int
    message: str = ""
    data: Any = None


def errorOf(error: ErrorObject | None) -> RKLLMError:
    """The exception for an ``error`` object that came."""
    if error is None:
        return RemoteError("the server reported a failure and gave no reason")
    return fromWire(error.code, error.message, error.data if isinstance(error.data, dict) else {})


class Exchange:
    """A request that was sent, its results that nobody has fetched, and how it ended.

    Args:
        method: The method that was called; ``rkllm.run_async`` is answered with an acknowledgement first.
        cancel: Tells the server that the request is cancelled.
        ended: Called once, when nothing more is expected for the request.
    """

    def __init__(self, method: str, cancel: Callable[[], object], ended: Callable[[], object]) -> None:
        self._cancel = cancel
        self._ended = ended
        self._results: deque[bytes] = deque()
        self._expectsAcknowledgement = method == "rkllm.run_async"
        self._keepsAcknowledgement = True
        self._hasProgressed = False
        self._isCancelled = False
        self._isOver = False
        self._error: RKLLMError | None = None
        self._waiting: Deferred[None] | None = None

    async def next(self) -> bytes:
        """The next result, as JSON.

        Raises:
            StopAsyncIteration: There is none any more.
            RKLLMError: What ended the request, again each time this is called.
            RuntimeError: Somebody else waits for the next result already.
        """
        while not self._results:
            if self._error is not None:
                raise self._error
            if self._isOver:
                raise StopAsyncIteration
            await self._arrival()
        return self._results.popleft()

    async def _arrival(self) -> None:
        if self._waiting is not None:
            raise RuntimeError("a stream is read in one loop at a time")
        self._waiting = Deferred()
        try:
            await self._waiting
        finally:
            self._waiting = None

    def dropAcknowledgement(self) -> None:
        """Leave the acknowledgement of ``rkllm.run_async`` out of the results."""
        self._keepsAcknowledgement = False

    def cancel(self) -> None:
        """Tell the server once that the request is cancelled; the rest still comes."""
        if not self._isOver and not self._isCancelled:
            self._isCancelled = True
            self._cancel()

    def leave(self) -> None:
        """Cancel the request and forget what comes of it."""
        self.cancel()
        self._results.clear()
        self._end()
        self._wake()

    def resultReceived(self, result: bytes) -> None:
        """A response with this result came."""
        ending = _endingOf(result)
        if ending.state is None and self._expectsAcknowledgement:
            self._acknowledged(result)
        elif ending.state == CallState.RKLLM_RUN_ERROR:
            self.failed(errorOf(ending.error))
        else:
            self._responded(result, isLast=ending.state in (None, CallState.RKLLM_RUN_FINISH))

    def _acknowledged(self, result: bytes) -> None:
        self._expectsAcknowledgement = False
        if self._keepsAcknowledgement:
            self._results.append(result)
            self._wake()

    def _responded(self, result: bytes, isLast: bool) -> None:
        if not self._hasProgressed:  # else the single response repeats what the notifications told
            self._results.append(result)
        if isLast:
            self._end()
        self._wake()

    def progressReceived(self, result: bytes) -> None:
        """The notification ``$/progress`` with this result came; one response follows the last of them."""
        self._hasProgressed = True
        if _endingOf(result).state != CallState.RKLLM_RUN_ERROR:  # the response has the error too
            self._results.append(result)
            self._wake()

    def failed(self, error: RKLLMError) -> None:
        """The request has ended with this error."""
        if not self._isOver:
            self._error = error
            self._end()
            self._wake()

    def _end(self) -> None:
        if not self._isOver:
            self._isOver = True
            self._ended()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)


class _Ending(Struct):
    """What of a result tells whether it is the last one."""

    state: int | None = field(name="_callback_state", default=None)
    error: ErrorObject | None = None


_decodeEnding = msgspec.json.Decoder(_Ending).decode


def _endingOf(result: bytes) -> _Ending:
    try:
        return _decodeEnding(result)
    except msgspec.ValidationError:
        return _Ending()  # not an object, so not of a stream

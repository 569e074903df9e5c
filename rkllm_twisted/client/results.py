"""What a generation sends back, and the stream that it comes in."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct, field

from rkllm_twisted.client.exchange import Exchange
from rkllm_twisted.values import NO_PERF, CallState, RKLLMPerfStat

T = TypeVar("T")


class Base64Tensor(Struct, frozen=True):
    """A tensor that was asked for with ``{"tensors": "base64"}``."""

    dtype: str
    """Always ``<f4``: float32, little endian."""
    shape: tuple[int, ...]
    data: bytes
    """The numbers themselves, row-major, the base64 already undone."""


Tensor = list[float | None] | Base64Tensor | None
"""All rows flat and row-major; None in the modes that give no tensor. A number that JSON has no name for is None."""


class LastHiddenLayer(Struct, frozen=True):
    """Hidden states of the last layer, ``num_tokens`` rows of ``embd_size`` numbers."""

    hidden_states: Tensor = None
    embd_size: int = 0
    num_tokens: int = 0


class Logits(Struct, frozen=True):
    """Logits, ``num_tokens`` rows of ``vocab_size`` numbers."""

    logits: Tensor = None
    vocab_size: int = 0
    num_tokens: int = 0


class StreamResult(Struct, frozen=True):
    """One line of a generation (W-STREAM). Fields that this version does not know are passed over."""

    callState: CallState = field(name="_callback_state")
    """``_callback_state`` on the wire."""
    text: str | None = None
    """Whole characters; None where there are none: in the state WAITING and in the finish line."""
    token_id: int = -1
    last_hidden_layer: LastHiddenLayer = LastHiddenLayer()
    logits: Logits = Logits()
    perf: RKLLMPerfStat = NO_PERF
    """The figures; they count in the finish line only."""
    finish_reason: str | None = None
    """In the finish line ``"stop"``, ``"length"`` or ``"abort"``, where the backend knows it."""
    history_lost: bool = False
    """In the finish line: the earlier turns of this connection were forgotten before this one (W-HISTORY)."""
    batch_index: int | None = None
    """Which input this belongs to, where there are several (W-NBATCH)."""

    @property
    def isFinish(self) -> bool:
        """Whether this is the last line."""
        return self.callState is CallState.RKLLM_RUN_FINISH


decodeStreamResult: Callable[[bytes], StreamResult] = msgspec.json.Decoder(StreamResult).decode
"""Read the JSON of one result.

Raises:
    msgspec.ValidationError: It is not a result of W-STREAM.
"""


class ResultStream(Generic[T]):
    """The results of one request, as they come: ``async for result in stream``.

    The request has been sent when this exists. Leaving the loop before its end, by ``break``, by an exception, by
    `aclose` or by cancelling the Deferred of the coroutine that it is in, cancels the request (``$/cancelRequest``),
    and so does letting go of a stream that nobody reads. Results that nobody has fetched yet wait in memory.

    Iterating raises, after the results that came before it, the error that ended the request: any class of
    `rkllm_twisted.errors`, or `ConnectionLost`. Use it in the reactor's thread, in one loop at a time.
    """

    def __init__(self, exchange: Exchange, decode: Callable[[bytes], T]) -> None:
        self._exchange = exchange
        self._decode = decode

    def __aiter__(self) -> AsyncGenerator[T, None]:
        return self._loop()

    async def __anext__(self) -> T:
        """The next result.

        Raises:
            StopAsyncIteration: The last one has been fetched.
            RKLLMError: What ended the request instead.
        """
        return self._decode(await self._exchange.next())

    def abort(self) -> None:
        """Ask the server to end the request, and go on reading: its last line still comes.

        That is the finish line with ``finish_reason`` "abort", or, where nothing had come before it, the error
        `errors.Cancelled`. Returns at once; does nothing once the request has ended.
        """
        self._exchange.cancel()

    async def aclose(self) -> None:
        """Cancel the request and drop what still comes of it. Does nothing once the request has ended."""
        self._exchange.leave()

    async def _loop(self) -> AsyncGenerator[T, None]:
        # A generator of its own for each loop: a `break` drops it, and that runs the `finally` at once.
        try:
            while True:
                try:
                    result = await self.__anext__()
                except StopAsyncIteration:
                    return
                yield result
        finally:
            self._exchange.leave()

    def __del__(self) -> None:
        self._exchange.leave()

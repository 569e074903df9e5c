"""Receivers that keep what they get."""

from __future__ import annotations

import json
import threading
from array import array
from collections.abc import Sequence

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from rkllm_twisted.interfaces import IResultReceiver
from rkllm_twisted.values import (
    CallState,
    EncodedResult,
    Received,
    RKLLMPerfStat,
    RKLLMResult,
    RKLLMResultLastHiddenLayer,
    RKLLMResultLogits,
)


class BrokenPromise(AssertionError):
    """A backend did what a receiver is promised not to see."""


@implementer(IResultReceiver)
class RecordingReceiver:
    """Keeps the results of one generation and checks the promises that hold for all of them.

    Attributes:
        results: What came before the ending, in order.
        ended: Fires with this receiver when the generation has finished, or fails as it did.
        endings: How many there were: 0 or 1, as a second one is a broken promise.
        perf: The figures; None before the ending and after a failure.
        reason: Why it finished.
        firstResult: Fires with the first result, or with None if there was none.
    """

    def __init__(self) -> None:
        self.results: list[RKLLMResult] = []
        self.perf: RKLLMPerfStat | None = None
        self.reason: str | None = None
        self.endings = 0
        self.ended: Deferred[RecordingReceiver] = Deferred()
        self.firstResult: Deferred[RKLLMResult | None] = Deferred()
        self._thread = threading.get_ident()

    @property
    def text(self) -> str:
        """All text so far."""
        return "".join(result.text or "" for result in self.results)

    @property
    def tokens(self) -> list[int]:
        """The ids of all tokens so far."""
        return [result.token_id for result in self.results if result.token_id >= 0]

    def resultsReceived(self, results: Sequence[Received]) -> None:
        """See `IResultReceiver`."""
        self._checkCall()
        self._check(len(results) > 0, "no results")
        for result, state in results:
            self._received(result, state)
        if not self.firstResult.called:
            self.firstResult.callback(self.results[0])

    def generationFinished(self, perf: RKLLMPerfStat, reason: str | None) -> None:
        """See `IResultReceiver`."""
        self._end()
        self.perf, self.reason = perf, reason
        self.ended.callback(self)

    def generationFailed(self, failure: Failure) -> None:
        """See `IResultReceiver`."""
        self._end()
        self.ended.errback(failure)

    def _received(self, result: RKLLMResult | EncodedResult, state: CallState) -> None:
        if isinstance(result, EncodedResult):
            self._check(json.loads(result.body)["_callback_state"] == state, "an encoded result of another state")
            result = decoded(result)
        self._check(state in (CallState.RKLLM_RUN_NORMAL, CallState.RKLLM_RUN_WAITING), f"a result with {state!r}")
        waits = state is CallState.RKLLM_RUN_WAITING
        self._check(not waits or result.text is None, f"text in the state WAITING: {result.text!r}")
        self.results.append(result)

    def _end(self) -> None:
        self._checkCall()
        self.endings += 1
        if not self.firstResult.called:
            self.firstResult.callback(None)

    def _checkCall(self) -> None:
        self._check(threading.get_ident() == self._thread, "called in another thread than the reactor's")
        self._check(self.endings == 0, "called after the ending")

    def _check(self, isKept: bool, otherwise: str) -> None:
        if not isKept:
            raise BrokenPromise(otherwise)


def decoded(result: EncodedResult) -> RKLLMResult:
    """The result that was spelled as JSON; its tensors as JSON numbers."""
    fields = json.loads(result.body)
    hidden, logits = fields["last_hidden_layer"], fields["logits"]
    return RKLLMResult(
        text=fields["text"],
        token_id=fields["token_id"],
        last_hidden_layer=RKLLMResultLastHiddenLayer(
            _floats(hidden["hidden_states"]), hidden["embd_size"], hidden["num_tokens"]
        ),
        logits=RKLLMResultLogits(_floats(logits["logits"]), logits["vocab_size"], logits["num_tokens"]),
        batch_index=fields.get("batch_index"),
    )


def _floats(numbers: list[float] | None) -> bytes | None:
    return None if numbers is None else array("f", numbers).tobytes()

"""How the results of a run are spelled as lines of its call (W-STREAM, W-FINISH)."""

from __future__ import annotations

from array import array

from rkllm_twisted.errors import Cancelled, RKLLMError
from rkllm_twisted.values import (
    NO_HIDDEN_STATES,
    NO_LOGITS,
    NO_PERF,
    CallState,
    EncodedResult,
    RKLLMPerfStat,
    RKLLMResult,
)
from rkllm_twisted.wire.connection import Call
from rkllm_twisted.wire.messages import encode, errorObject

_NO_TENSORS = (
    b',"last_hidden_layer":{"hidden_states":null,"embd_size":0,"num_tokens":0}'
    b',"logits":{"logits":null,"vocab_size":0,"num_tokens":0}'
)
_TEXT_ONLY_END = {
    state: b'%b,"perf":%b,"_callback_state":%d}' % (_NO_TENSORS, encode(NO_PERF), state) for state in CallState
}


def spellResult(result: RKLLMResult | EncodedResult, state: CallState) -> bytes:
    """A result as the JSON of W-STREAM."""
    if isinstance(result, EncodedResult):
        return result.body
    if result.last_hidden_layer is not NO_HIDDEN_STATES or result.logits is not NO_LOGITS:
        return _spellTensors(result, state)
    # Only text and token id change from token to token: the rest of the line is ready made.
    return b'{"text":%b,"token_id":%d%b' % (encode(result.text), result.token_id, _TEXT_ONLY_END[state])


def _spellTensors(result: RKLLMResult, state: CallState) -> bytes:
    hidden, logits = result.last_hidden_layer, result.logits
    return encode(
        {
            "text": result.text,
            "token_id": result.token_id,
            "last_hidden_layer": {
                "hidden_states": _floats(hidden.hidden_states),
                "embd_size": hidden.embd_size,
                "num_tokens": hidden.num_tokens,
            },
            "logits": {
                "logits": _floats(logits.logits),
                "vocab_size": logits.vocab_size,
                "num_tokens": logits.num_tokens,
            },
            "perf": result.perf,
            "_callback_state": int(state),
        }
    )


def _floats(tensor: bytes | None) -> list[float] | None:
    return None if tensor is None else array("f", tensor).tolist()


def spellEnd(state: CallState, perf: RKLLMPerfStat = NO_PERF, **more: object) -> bytes:
    """The last result of a stream: no text, the figures, and what W-FINISH adds."""
    added = b"".join(b',"%b":%b' % (name.encode(), encode(value)) for name, value in more.items())
    return b'{"text":null,"token_id":-1%b,"perf":%b,"_callback_state":%d%b}' % (_NO_TENSORS, encode(perf), state, added)


class LineStream:
    """A stream spelled as one line for each result.

    Args:
        call: The call that it answers.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._hasStarted = False

    def acknowledge(self, message: str) -> None:
        """The line that ``rkllm.run_async`` sends first."""
        self._call.send(encode({"success": True, "message": message}))

    def result(self, result: RKLLMResult | EncodedResult, state: CallState) -> None:
        """A line of data."""
        self._hasStarted = True
        self._call.send(spellResult(result, state))

    def finish(self, perf: RKLLMPerfStat, reason: str | None) -> None:
        """The last line of a run that ended well, or that was aborted (W-CANCEL)."""
        if reason == "abort" and not self._hasStarted:
            self._call.fail(Cancelled())
            return
        known = {"finish_reason": reason} if reason is not None else {}
        self._call.finish(spellEnd(CallState.RKLLM_RUN_FINISH, perf, **known))

    def fail(self, error: RKLLMError) -> None:
        """The last line of a run that failed: an error, or inside the last result once there was data."""
        if self._hasStarted:
            self._call.finish(spellEnd(CallState.RKLLM_RUN_ERROR, error=errorObject(error)))
        else:
            self._call.fail(error)

"""How one result is spelled, its tensors among it (W-STREAM, W-TENSOR, W-OPTIONS)."""

from __future__ import annotations

import base64
import sys
from array import array

from msgspec import Raw

from rkllm_twisted.values import (
    NO_HIDDEN_STATES,
    NO_LOGITS,
    NO_PERF,
    CallState,
    Delivery,
    EncodedResult,
    RKLLMResult,
)
from rkllm_twisted.wire.messages import encode, encodeInto

PART = 2**18
"""The bytes of a tensor that are spelled at a time."""
_NO_TENSORS = (
    b',"last_hidden_layer":{"hidden_states":null,"embd_size":0,"num_tokens":0}'
    b',"logits":{"logits":null,"vocab_size":0,"num_tokens":0}'
)
_TEXT_ONLY_END = tuple(
    b'%b,"perf":%b,"_callback_state":%d}' % (_NO_TENSORS, encode(NO_PERF), state) for state in range(len(CallState))
)


class Spelling:
    """Results as the JSON of W-STREAM.

    Args:
        delivery: How tensors are spelled, which of their rows, and the longest result with tensors in it.
    """

    def __init__(self, delivery: Delivery) -> None:
        self.rows = delivery.rows
        self.checkTensors = delivery.checkTensors
        self._delivery = delivery

    def result(self, result: RKLLMResult | EncodedResult, state: CallState) -> bytes:
        """A result.

        Raises:
            ResultTooLarge: Its tensors make it too long.
        """
        if isinstance(result, EncodedResult):
            return result.body
        if result.last_hidden_layer is not NO_HIDDEN_STATES or result.logits is not NO_LOGITS:
            return self.long(result, int(state))
        if result.batch_index is not None:
            return self.long(result, int(state))
        # Only text and token id change from token to token: the rest of the line is ready made.
        return b'{"text":%b,"token_id":%d%b' % (encode(result.text), result.token_id, _TEXT_ONLY_END[state])

    def long(self, result: RKLLMResult, state: int, **more: object) -> bytes:
        """A result with all its fields spelled out, and some added."""
        hidden, logits = result.last_hidden_layer, result.logits
        states, stateRows = self._tensor(hidden.hidden_states, hidden.num_tokens, hidden.embd_size)
        values, valueRows = self._tensor(logits.logits, logits.num_tokens, logits.vocab_size)
        body = encode(
            {
                "text": result.text,
                "token_id": result.token_id,
                "last_hidden_layer": {
                    "hidden_states": states,
                    "embd_size": hidden.embd_size,
                    "num_tokens": stateRows,
                },
                "logits": {"logits": values, "vocab_size": logits.vocab_size, "num_tokens": valueRows},
                "perf": result.perf,
                "_callback_state": state,
                **({} if result.batch_index is None else {"batch_index": result.batch_index}),
                **more,
            }
        )
        if states is not None or values is not None:
            self._delivery.checkReply(len(body))
        return body

    def _tensor(self, data: bytes | None, rows: int, width: int) -> tuple[object, int]:
        """A tensor as JSON, and how many rows of it are there."""
        if data is None:
            return None, rows
        if self.rows == "last" and rows > 1:
            data, rows = data[-4 * width :], 1
        self.checkTensors(len(data))
        if self._delivery.tensors == "json":
            return self._numbers(data), rows
        return Raw(b'{"dtype":"<f4","shape":[%d,%d],"data":"%b"}' % (rows, width, _base64(data))), rows

    def _numbers(self, data: bytes) -> Raw:
        """A tensor as a JSON array. In parts: as objects of Python all its numbers would take 8 times their bytes."""
        spelled = bytearray()
        for start in range(0, len(data), PART):
            place = max(0, len(spelled) - 1)  # of the bracket that ends what there is: it becomes that of this part
            encodeInto(array("f", data[start : start + PART]).tolist(), spelled, place)
            if start:
                spelled[place] = ord(",")
            self._delivery.checkReply(len(spelled))
        return Raw(spelled)


def _base64(data: bytes) -> bytes:
    if sys.byteorder == "big":
        swapped = array("f", data)
        swapped.byteswap()
        data = swapped.tobytes()
    return base64.b64encode(data)

"""What a result callback points to into values. Everything is copied: the pointers are good in the callback only."""

from __future__ import annotations

from typing import Any

from rkllm_twisted.values import (
    NO_HIDDEN_STATES,
    NO_LOGITS,
    Delivery,
    InferMode,
    RKLLMPerfStat,
    RKLLMResultLastHiddenLayer,
    RKLLMResultLogits,
)


def textOf(ffi: Any, result: Any) -> bytes:
    """The bytes of the text, which need not be whole characters; none where there is no text."""
    text: bytes = ffi.string(result.text) if result.text else b""
    return text


def hasTensors(result: Any, mode: InferMode) -> bool:
    """Whether a result brings the tensor of its mode. In another mode nobody has set the fields."""
    if mode is InferMode.RKLLM_INFER_GET_LAST_HIDDEN_LAYER:
        return bool(result.last_hidden_layer.hidden_states)
    return mode is InferMode.RKLLM_INFER_GET_LOGITS and bool(result.logits.logits)


def tensorsOf(
    ffi: Any, result: Any, mode: InferMode, delivery: Delivery
) -> tuple[RKLLMResultLastHiddenLayer, RKLLMResultLogits]:
    """The hidden states and the logits; `NO_HIDDEN_STATES` and `NO_LOGITS` where there are none.

    Raises:
        ResultTooLarge: They would be too long; nothing was copied.
    """
    if not hasTensors(result, mode):
        return NO_HIDDEN_STATES, NO_LOGITS
    if mode is InferMode.RKLLM_INFER_GET_LOGITS:
        logits = result.logits
        data, rows = _rows(ffi, logits.logits, logits.num_tokens, logits.vocab_size, delivery)
        return NO_HIDDEN_STATES, RKLLMResultLogits(data, logits.vocab_size, rows) if data else NO_LOGITS
    hidden = result.last_hidden_layer
    data, rows = _rows(ffi, hidden.hidden_states, hidden.num_tokens, hidden.embd_size, delivery)
    return RKLLMResultLastHiddenLayer(data, hidden.embd_size, rows) if data else NO_HIDDEN_STATES, NO_LOGITS


def perfOf(result: Any) -> RKLLMPerfStat:
    """The figures, which are in the result itself and not behind a pointer. From 1.2.1 on."""
    perf = result.perf
    return RKLLMPerfStat(**{name: getattr(perf, name) for name in RKLLMPerfStat.__struct_fields__})


def _rows(ffi: Any, data: Any, rows: int, width: int, delivery: Delivery) -> tuple[bytes | None, int]:
    """The rows that are wanted, and how many these are. Sizes above 0 mark that there are any."""
    if rows <= 0 or width <= 0:
        return None, 0
    first = rows - 1 if delivery.rows == "last" else 0
    length = 4 * width * (rows - first)
    delivery.checkTensors(length)
    return bytes(ffi.buffer(data + first * width, length)), rows - first

"""One result as JSON."""

import base64
import struct
from array import array

import msgspec
import pytest

from rkllm_twisted.values import (
    CallState,
    Delivery,
    EncodedResult,
    RKLLMResult,
    RKLLMResultLastHiddenLayer,
    RKLLMResultLogits,
)
from rkllm_twisted.wire import spelling
from rkllm_twisted.wire.spelling import Spelling


def spelled(result, state=CallState.RKLLM_RUN_NORMAL, **delivery):
    return msgspec.json.decode(Spelling(Delivery(**delivery)).result(result, state))


def logits(*values, width):
    return RKLLMResultLogits(array("f", values).tobytes(), width, len(values) // width)


def test_ready_made_line_has_all_that_the_long_way_has():
    """W-STREAM: the fields and their order."""
    short = spelled(RKLLMResult(text='"\n🦊', token_id=7))
    assert short == spelled(RKLLMResult(text='"\n🦊', token_id=7, logits=RKLLMResultLogits()))
    assert list(short) == ["text", "token_id", "last_hidden_layer", "logits", "perf", "_callback_state"]
    assert short["text"] == '"\n🦊'


def test_waiting_has_no_text():
    """W-STREAM."""
    waiting = spelled(RKLLMResult(token_id=7), CallState.RKLLM_RUN_WAITING)
    assert (waiting["text"], waiting["_callback_state"]) == (None, 1)


def test_tensors_are_flat_rows():
    """W-TENSOR."""
    rows = array("f", [0.5, 1.5, -2.0, 0.25]).tobytes()
    result = RKLLMResult(
        logits=RKLLMResultLogits(logits=rows, vocab_size=2, num_tokens=2),
        last_hidden_layer=RKLLMResultLastHiddenLayer(hidden_states=rows, embd_size=4, num_tokens=1),
    )
    flat = spelled(result)
    assert flat["logits"] == {"logits": [0.5, 1.5, -2.0, 0.25], "vocab_size": 2, "num_tokens": 2}
    assert flat["last_hidden_layer"] == {"hidden_states": [0.5, 1.5, -2.0, 0.25], "embd_size": 4, "num_tokens": 1}


@pytest.mark.parametrize("count", [1, 4, 5, 9])
def test_numbers_are_spelled_in_parts_that_are_one_array(monkeypatch, count):
    monkeypatch.setattr(spelling, "PART", 16)  # four numbers
    assert spelled(RKLLMResult(logits=logits(*range(count), width=1)))["logits"]["logits"] == list(range(count))


def test_tensors_as_base64():
    """W-OPTIONS: little-endian float32, row-major."""
    tensor = spelled(RKLLMResult(logits=logits(0.5, 1.5, -2.0, 0.25, width=2)), tensors="base64")["logits"]["logits"]
    assert (tensor["dtype"], tensor["shape"]) == ("<f4", [2, 2])
    assert struct.unpack("<4f", base64.b64decode(tensor["data"])) == (0.5, 1.5, -2.0, 0.25)


def test_last_row_only():
    """W-OPTIONS."""
    last = spelled(RKLLMResult(logits=logits(0.5, 1.5, -2.0, 0.25, width=2)), rows="last")
    assert last["logits"] == {"logits": [-2.0, 0.25], "vocab_size": 2, "num_tokens": 1}


def test_encoded_result_is_not_touched():
    body = b'{ "as" : "it came" }'
    assert Spelling(Delivery()).result(EncodedResult(body), CallState.RKLLM_RUN_NORMAL) == body

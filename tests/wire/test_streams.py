"""Results into lines, where a transcript cannot show it."""

from array import array

import msgspec

from rkllm_twisted.errors import BackendLost
from rkllm_twisted.values import (
    CallState,
    Delivery,
    EncodedResult,
    RKLLMPerfStat,
    RKLLMResult,
    RKLLMResultLastHiddenLayer,
    RKLLMResultLogits,
)
from rkllm_twisted.wire.connection import Connection
from rkllm_twisted.wire.streams import LineStream, Spelling

NORMAL = CallState.RKLLM_RUN_NORMAL


def stream():
    written = []
    [call] = Connection(written.append, lambda: None).receive(b'{"jsonrpc":"2.0","id":1,"method":"m"}')
    return LineStream(call, Spelling(Delivery(), 1000)), written


def test_ready_made_line_has_all_that_the_long_way_has():
    """W-STREAM: the fields and their order."""
    short = msgspec.json.decode(Spelling(Delivery(), 1000).result(RKLLMResult(text='"\n🦊', token_id=7), NORMAL))
    long = msgspec.json.decode(
        Spelling(Delivery(), 1000).result(RKLLMResult(text='"\n🦊', token_id=7, logits=RKLLMResultLogits()), NORMAL)
    )
    assert short == long
    assert list(short) == ["text", "token_id", "last_hidden_layer", "logits", "perf", "_callback_state"]
    assert short["text"] == '"\n🦊'


def test_waiting_has_no_text():
    """W-STREAM."""
    spelled = msgspec.json.decode(
        Spelling(Delivery(), 1000).result(RKLLMResult(token_id=7), CallState.RKLLM_RUN_WAITING)
    )
    assert (spelled["text"], spelled["_callback_state"]) == (None, 1)


def test_tensors_are_flat_rows():
    """W-TENSOR."""
    rows = array("f", [0.5, 1.5, -2.0, 0.25]).tobytes()
    result = RKLLMResult(
        logits=RKLLMResultLogits(logits=rows, vocab_size=2, num_tokens=2),
        last_hidden_layer=RKLLMResultLastHiddenLayer(hidden_states=rows, embd_size=4, num_tokens=1),
    )
    spelled = msgspec.json.decode(Spelling(Delivery(), 1000).result(result, NORMAL))
    assert spelled["logits"] == {"logits": [0.5, 1.5, -2.0, 0.25], "vocab_size": 2, "num_tokens": 2}
    assert spelled["last_hidden_layer"] == {"hidden_states": [0.5, 1.5, -2.0, 0.25], "embd_size": 4, "num_tokens": 1}


def test_encoded_result_is_not_touched():
    assert Spelling(Delivery(), 1000).result(EncodedResult(b'{ "as" : "it came" }'), NORMAL) == b'{ "as" : "it came" }'


def test_failure_before_any_data_is_an_error():
    """W-FINISH."""
    lines, written = stream()
    lines.acknowledge("accepted")
    lines.fail(BackendLost("it died", signal="SIGSEGV"))
    error = msgspec.json.decode(written[-1])["error"]
    assert (error["code"], error["data"]) == (-32006, {"retryable": True, "signal": "SIGSEGV"})


def test_failure_after_data_is_the_last_result():
    """W-FINISH."""
    lines, written = stream()
    lines.result(RKLLMResult(text="a"), NORMAL)
    lines.fail(BackendLost("it died", signal="SIGSEGV"))
    result = msgspec.json.decode(written[-1])["result"]
    assert (result["text"], result["_callback_state"]) == (None, 3)
    assert result["error"]["code"] == -32006
    assert result["error"]["data"]["signal"] == "SIGSEGV"


def test_reason_that_is_not_known_is_left_out():
    """W-FINISH."""
    lines, written = stream()
    lines.finish(RKLLMPerfStat(prefill_tokens=3), None)
    result = msgspec.json.decode(written[-1])["result"]
    assert "finish_reason" not in result
    assert result["perf"]["prefill_tokens"] == 3

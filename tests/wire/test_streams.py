"""Results into lines, where a transcript cannot show it."""

from array import array

import msgspec
import pytest

from rkllm_twisted.errors import BackendLost, ReaderTooSlow, ResultTooLarge
from rkllm_twisted.values import (
    CallState,
    Delivery,
    RKLLMPerfStat,
    RKLLMResult,
    RKLLMResultLogits,
)
from rkllm_twisted.wire.connection import Connection
from rkllm_twisted.wire.spelling import Spelling
from rkllm_twisted.wire.streams import LineStream, openStream

NORMAL = CallState.RKLLM_RUN_NORMAL


def stream():
    written = []
    [call] = Connection(written.append, lambda: None).receive(b'{"jsonrpc":"2.0","id":1,"method":"m"}')
    return LineStream(call, Spelling(Delivery(maxReply=1000))), written


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
    lines.results([(RKLLMResult(text="a"), NORMAL)])
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


class Spoken:
    """A stream of some kind, and what it wrote."""

    def __init__(self, batch=False, maxReply=1000, **delivery):
        self.written = []
        line = b'{"jsonrpc":"2.0","id":"a","method":"m"}'
        [call] = Connection(self.written.append, lambda: None).receive(b"[%b]" % line if batch else line)
        self.stream = openStream(call, Delivery(**delivery, maxReply=maxReply))

    def messages(self):
        return [msgspec.json.decode(line) for line in self.written]


def rowsOf(*values, width=2):
    """A result with logits."""
    data = array("f", values).tobytes()
    return RKLLMResult(logits=RKLLMResultLogits(data, width, len(values) // width), token_id=5)


def textsOf(*texts):
    return [(RKLLMResult(text=text, token_id=1), NORMAL) for text in texts]


def test_results_that_come_together_are_written_together():
    spoken = Spoken()
    spoken.stream.results(textsOf("one", "two", "three"))
    [written] = spoken.written
    assert [msgspec.json.decode(line)["result"]["text"] for line in written.splitlines()] == ["one", "two", "three"]


def test_what_comes_before_a_result_that_is_too_long_is_written():
    spoken = Spoken(maxReply=100)
    with pytest.raises(ResultTooLarge):
        spoken.stream.results([*textsOf("one"), (rowsOf(*[0.5] * 1000), NORMAL), *textsOf("two")])
    [message] = spoken.messages()
    assert message["result"]["text"] == "one"


def test_client_that_does_not_read_is_looked_at_between_results():
    """W-SLOW: also between those that come together."""
    spoken = Spoken()
    spoken.stream._call.connection.isCongested = lambda: sum(map(len, spoken.written)) > 300_000
    with pytest.raises(ReaderTooSlow):
        spoken.stream.results(textsOf(*["x" * 10_000] * 1000))
    assert 300_000 < sum(map(len, spoken.written)) < 400_000


def test_whole_joins_all():
    """W-OPTIONS: one response, the acknowledgement left out."""
    spoken = Spoken(stream="whole")
    spoken.stream.acknowledge("accepted")
    spoken.stream.results([(RKLLMResult(text="one", token_id=1), NORMAL)])
    spoken.stream.results([(RKLLMResult(token_id=2), CallState.RKLLM_RUN_WAITING)])
    spoken.stream.results([(RKLLMResult(text=" 🦊", token_id=3), NORMAL)])
    assert spoken.written == []
    spoken.stream.finish(RKLLMPerfStat(generate_tokens=2), "stop")
    [message] = spoken.messages()
    assert message["id"] == "a"
    assert message["result"]["text"] == "one 🦊"
    assert message["result"]["token_id"] == 3
    assert message["result"]["_callback_state"] == 2
    assert message["result"]["finish_reason"] == "stop"
    assert message["result"]["perf"]["generate_tokens"] == 2


def test_progress_notifies_and_ends_with_the_whole():
    """W-OPTIONS."""
    spoken, whole = Spoken(stream="progress"), Spoken(stream="whole")
    for one in (spoken, whole):
        one.stream.acknowledge("accepted")
        one.stream.results([(RKLLMResult(text="one", token_id=1), NORMAL)])
        one.stream.finish(RKLLMPerfStat(), "stop")
    first, finish, last = spoken.messages()
    assert [message["method"] for message in (first, finish)] == ["$/progress"] * 2
    assert [message["params"]["token"] for message in (first, finish)] == ["a", "a"]
    assert first["params"]["value"]["text"] == "one"
    assert finish["params"]["value"]["_callback_state"] == 2
    assert [last] == whole.messages()


def test_batch_is_answered_whole():
    """W-BATCH."""
    spoken = Spoken(batch=True, stream="lines")
    spoken.stream.results([(RKLLMResult(text="one", token_id=1), NORMAL)])
    spoken.stream.finish(RKLLMPerfStat(), "stop")
    [[message]] = spoken.messages()
    assert message["result"]["text"] == "one"


def test_abort_of_a_whole_after_data_keeps_the_data():
    """W-CANCEL."""
    started, unstarted = Spoken(stream="whole"), Spoken(stream="whole")
    started.stream.results([(RKLLMResult(text="one", token_id=1), NORMAL)])
    for one in (started, unstarted):
        one.stream.finish(RKLLMPerfStat(), "abort")
    assert started.messages()[0]["result"]["finish_reason"] == "abort"
    assert unstarted.messages()[0]["error"]["code"] == -32800


def test_failure_of_a_whole_after_data():
    """W-FINISH."""
    spoken = Spoken(stream="whole")
    spoken.stream.results([(RKLLMResult(text="one", token_id=1), NORMAL)])
    spoken.stream.fail(BackendLost("it died"))
    result = spoken.messages()[0]["result"]
    assert (result["text"], result["_callback_state"], result["error"]["code"]) == ("one", 3, -32006)


def test_rows_of_a_whole():
    """W-OPTIONS: all rows of all results, or the very last."""
    everything, last = Spoken(stream="whole"), Spoken(stream="whole", rows="last")
    for one in (everything, last):
        one.stream.results([(rowsOf(1, 2, 3, 4), NORMAL)])
        one.stream.results([(rowsOf(5, 6), NORMAL)])
        one.stream.finish(RKLLMPerfStat(), "stop")
    assert everything.messages()[0]["result"]["logits"]["logits"] == [1, 2, 3, 4, 5, 6]
    assert everything.messages()[0]["result"]["logits"]["num_tokens"] == 3
    assert last.messages()[0]["result"]["logits"]["logits"] == [5, 6]


@pytest.mark.parametrize("kind", ["lines", "progress"])
@pytest.mark.parametrize("tensors", ["json", "base64"])
def test_tensor_reply_over_the_limit(kind, tensors):
    """W-CODES: -32009, told before the tensor is spelled, where that is certain, and nothing of it is sent."""
    spoken = Spoken(stream=kind, tensors=tensors, maxReply=1000)
    with pytest.raises(ResultTooLarge) as refused:
        spoken.stream.results([(rowsOf(*[0.5] * 1000), NORMAL)])
    assert refused.value.data["limit"] == 1000
    assert refused.value.data["bytes"] > 1000
    assert spoken.written == []


def test_whole_that_grows_over_the_limit():
    """W-CODES: -32009."""
    spoken = Spoken(stream="whole", maxReply=1000)
    for _ in range(5):
        spoken.stream.results([(rowsOf(*[0.5] * 100), NORMAL)])
    with pytest.raises(ResultTooLarge):
        spoken.stream.results([(rowsOf(*[0.5] * 100), NORMAL)])


def test_long_text_is_no_large_reply():
    """W-CODES: the limit is of tensors."""
    spoken = Spoken(maxReply=10)
    spoken.stream.results([(RKLLMResult(text="x" * 100), NORMAL)])
    spoken.stream.finish(RKLLMPerfStat(), "stop")
    assert len(spoken.written) == 2

"""Results of a generation as they come, and what ends them instead of a finish line."""

from __future__ import annotations

import json

from rkllm_twisted import errors
from rkllm_twisted.client import Base64Tensor
from tests.spoken_server import Reader, SpokenServer, failed, finish, fired, outcome, token


def test_runYieldsEachLineAndTheFinish(server: SpokenServer) -> None:
    """W-STREAM, W-FINISH, W-LAST."""
    reader = Reader(server.client.run("hi", {"max_new_tokens": 3}, {"deadline": 9}))
    request = server.request()
    assert request["method"] == "rkllm.run"
    assert request["params"] == [
        None,
        {"input_type": 0, "prompt_input": "hi"},
        {"max_new_tokens": 3},
        {"deadline": 9},
    ]
    server.answer(request["id"], token("Hé"))
    assert reader.texts == ["Hé"]
    server.answer(request["id"], token(None, 1), token("€"), finish("length", history_lost=True))
    assert outcome(reader.done) == ["ended"]
    assert reader.texts == ["Hé", None, "€", None]
    assert [result.callState for result in reader.results] == [0, 1, 0, 2]
    last = reader.results[-1]
    assert last.isFinish
    assert (last.finish_reason, last.history_lost) == ("length", True)
    assert (last.perf.prefill_tokens, last.perf.generate_time_ms) == (10, 50.0)
    assert not reader.results[0].isFinish
    assert not reader.results[0].history_lost
    assert server.received() == []


def test_theRequestGoesOutBeforeItIsIterated(server: SpokenServer) -> None:
    """W-STATE: init and run may be sent in one packet."""
    loaded = server.client.init(model_path="m")
    stream = server.client.run("hi")
    init, run = server.received()
    assert (init["method"], run["method"]) == ("rkllm.init", "rkllm.run")
    server.answer(init["id"], {"success": True, "message": ""})
    server.answer(run["id"], token("a"), finish())
    assert outcome(loaded) == [{"success": True, "message": ""}]
    assert Reader(stream).texts == ["a", None]


def test_fieldsNotKnownAreTolerated(server: SpokenServer) -> None:
    reader = Reader(server.client.run("hi"))
    server.answer(server.request()["id"], token("a", odd={"x": 1}, batch_index=1), {"_callback_state": 2, "odd": 1})
    assert outcome(reader.done) == ["ended"]
    assert reader.results[0].batch_index == 1


def test_tensors(server: SpokenServer) -> None:
    """W-TENSOR, W-OPTIONS: numbers, or base64 undone."""
    reader = Reader(server.client.run("hi"))
    id = server.request()["id"]
    hidden = {"hidden_states": [1, 2.5, None], "embd_size": 3, "num_tokens": 1}
    logits = {"logits": {"dtype": "<f4", "shape": [1, 1], "data": "AACAPw=="}, "vocab_size": 1, "num_tokens": 1}
    server.answer(id, {**token(None), "last_hidden_layer": hidden, "logits": logits})
    server.answer(id, finish())
    result = reader.results[0]
    assert result.last_hidden_layer.hidden_states == [1.0, 2.5, None]
    assert result.logits.logits == Base64Tensor(dtype="<f4", shape=(1, 1), data=b"\x00\x00\x80\x3f")


def test_runAsyncConsumesTheAcknowledgement(server: SpokenServer) -> None:
    reader = Reader(server.client.runAsync("hi"))
    request = server.request()
    assert request["method"] == "rkllm.run_async"
    server.answer(request["id"], {"success": True, "message": "started"})
    assert (reader.results, outcome(reader.done)) == ([], [])
    server.answer(request["id"], token("a"), finish())
    assert reader.texts == ["a", None]


def test_runAsyncWithoutAnAcknowledgement(server: SpokenServer) -> None:
    """Delivered whole, there is none."""
    reader = Reader(server.client.runAsync("hi", delivery={"stream": "whole"}))
    server.answer(server.request()["id"], finish(text="all of it"))
    assert outcome(reader.done) == ["ended"]
    assert reader.texts == ["all of it"]


def test_streamGivesTheJsonAsItCame(server: SpokenServer) -> None:
    reader = Reader(server.client.stream("rkllm.run_async", [None, {}]))
    id = server.request()["id"]
    server.protocol.dataReceived(b'{"id":%d,"result":{"success":true}}\r\n\n' % id)
    server.protocol.dataReceived(b'{"id":%d,"result":{"text": "\xc3\xa9", "_callback_state": 0}}\n' % id)
    server.protocol.dataReceived(b'{"id":%d,"result":{"_callback_state":2}}\n' % id)
    assert reader.results == [
        b'{"success":true}',
        '{"text": "é", "_callback_state": 0}'.encode(),
        b'{"_callback_state":2}',
    ]
    assert outcome(reader.done) == ["ended"]


def test_severalStreamsAtOnce(server: SpokenServer) -> None:
    """W-ORDER: lines of different requests interleave."""
    first, second = Reader(server.client.run("1")), Reader(server.client.run("2"))
    a, b = (request["id"] for request in server.received())
    for result in (token("x"), token("y"), finish()):
        server.answer(a, result)
        server.answer(b, {**result, "text": result["text"] and result["text"].upper()})
    assert (first.texts, second.texts) == (["x", "y", None], ["X", "Y", None])


def test_anyPieces(server: SpokenServer) -> None:
    """W-SPLIT, from the server's side."""
    reader = Reader(server.client.run("hi"))
    id = server.request()["id"]
    lines = b"".join(
        json.dumps({"jsonrpc": "2.0", "id": id, "result": result}, ensure_ascii=False).encode() + b"\n"
        for result in (token("héé"), token("€"), finish())
    )
    for at in range(len(lines)):
        server.protocol.dataReceived(lines[at : at + 1])
    assert reader.texts == ["héé", "€", None]


def test_aLongReplyCostsTimeLinearInItsLength(server: SpokenServer) -> None:
    called = server.client.call("m")
    id = server.request()["id"]
    text = "x" * (24 << 20)
    line = b'{"id":%d,"result":"%b"}\n' % (id, text.encode())
    pieces = [line[at : at + 4096] for at in range(0, len(line), 4096)]  # 6,000 of them: quadratic takes a minute
    for piece in pieces:
        server.protocol.dataReceived(piece)
    assert fired(called) == text


def test_progressIsYieldedAndItsResponseIsNot(server: SpokenServer) -> None:
    """W-OPTIONS: progress."""
    reader = Reader(server.client.run("hi", delivery={"stream": "progress"}))
    id = server.request()["id"]
    for result in (token("a"), token("b"), finish()):
        server.say({"method": "$/progress", "params": {"token": id, "value": result}})
    assert reader.texts == ["a", "b", None]
    assert outcome(reader.done) == []
    server.answer(id, {**finish(), "text": "ab"})
    assert outcome(reader.done) == ["ended"]
    assert reader.texts == ["a", "b", None]


def test_progressThatFails(server: SpokenServer) -> None:
    reader = Reader(server.client.run("hi", delivery={"stream": "progress"}))
    id = server.request()["id"]
    bad = token(None, 3, error={"code": -32006, "message": "backend lost", "data": {"signal": 9}})
    for result in (token("a"), bad):
        server.say({"method": "$/progress", "params": {"token": id, "value": result}})
    assert outcome(reader.done) == []
    server.answer(id, bad)
    assert isinstance(failed(reader.done), errors.BackendLost)
    assert reader.texts == ["a"]


def test_otherNotificationsAreTolerated(server: SpokenServer) -> None:
    reader = Reader(server.client.run("hi"))
    id = server.request()["id"]
    server.say(
        {"method": "$/news", "params": {"token": id}}, {"method": "$/progress", "params": {"token": 99, "value": 1}}
    )
    server.answer(id, finish())
    assert outcome(reader.done) == ["ended"]


def test_answersToIdsNotKnownAreTolerated(server: SpokenServer) -> None:
    reader = Reader(server.client.run("hi"))
    id = server.request()["id"]
    server.answer("nobody", token("x"))
    server.answer(id + 1000, token("x"))
    server.answer(id, finish())
    assert reader.texts == [None]


# Streams that fail


def test_anErrorBeforeTheFirstToken(server: SpokenServer) -> None:
    reader = Reader(server.client.run("hi"))
    server.refuse(server.request()["id"], -32000, "model not initialized", retryable=False)
    assert isinstance(failed(reader.done), errors.ModelNotInitialized)
    assert reader.results == []


def test_anErrorAfterTheFirstToken(server: SpokenServer) -> None:
    """W-FINISH: inside the line of state 3; the results before it are yielded first."""
    stream = server.client.run("hi")
    bad = {"code": -32006, "message": "backend lost: killed", "data": {"signal": 9, "retryable": True}}
    server.answer(server.request()["id"], token("a"), token("b"), token(None, 3, error=bad))
    reader = Reader(stream)
    error = failed(reader.done)
    assert isinstance(error, errors.BackendLost)
    assert (error.detail, error.data["signal"]) == ("killed", 9)
    assert reader.texts == ["a", "b"]


def test_aFailureWithoutAReason(server: SpokenServer) -> None:
    reader = Reader(server.client.run("hi"))
    server.answer(server.request()["id"], token("a"), token(None, 3))
    assert isinstance(failed(reader.done), errors.RemoteError)


def test_aResultThatIsNotOfAStream(server: SpokenServer) -> None:
    reader = Reader(server.client.run("hi"))
    server.answer(server.request()["id"], {"_callback_state": 0, "text": 5})
    assert "text" in str(failed(reader.done))
    assert server.request()["method"] == "$/cancelRequest"

"""The client against a server that says exactly the lines of the wire contract."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint, serverFromString
from twisted.internet.error import ConnectionLost as TransportLost
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from rkllm_twisted import errors
from rkllm_twisted.client import Base64Tensor, ConnectionLost, RKLLMClient, StreamResult, endpointOf
from rkllm_twisted.values import RKLLMInferParam, RKLLMInput, RKLLMParam
from tests.spoken_server import Reader, connected, failed, finish, fired, outcome, token
from tests.spoken_server import SpokenServer as Server


@pytest.fixture
def server() -> Iterator[Server]:
    server = connected()
    yield server
    server.hangUp()


# One result


def test_callFiresWithTheResultOfItsOwnId(server: Server) -> None:
    first, second = server.client.call("a"), server.client.call("b", {"x": 1})
    a, b = server.received()
    assert a == {"jsonrpc": "2.0", "id": a["id"], "method": "a"}
    assert b == {"jsonrpc": "2.0", "id": b["id"], "method": "b", "params": {"x": 1}}
    assert a["id"] != b["id"]
    server.answer(b["id"], "of b")
    server.answer(a["id"], {"of": "a"})
    assert fired(first) == {"of": "a"}
    assert fired(second) == "of b"


@pytest.mark.parametrize("result", [None, 5, [1, 2], "x", {}, True])
def test_aResultMayBeAnyJson(server: Server, result: object) -> None:
    called = server.client.call("m")
    server.answer(server.request()["id"], result)
    assert outcome(called) == [result]


METHODS: list[tuple[Callable[[RKLLMClient], Deferred[Any]], str, object, object, object]] = [
    (lambda c: c.createDefaultParam(), "rkllm.createDefaultParam", None, {"top_k": 1}, {"top_k": 1}),
    (lambda c: c.getConstants(), "rkllm.get_constants", None, {"CPU_MASKS": {"CPU0": 1}}, {"CPU_MASKS": {"CPU0": 1}}),
    (lambda c: c.isRunning(), "rkllm.is_running", None, {"is_running": True, "status_code": 0}, True),
    (lambda c: c.abort(), "rkllm.abort", None, {"success": True}, {"success": True}),
    (lambda c: c.destroy(), "rkllm.destroy", None, {"success": True}, {"success": True}),
    (lambda c: c.init({"model_path": "a"}), "rkllm.init", [None, {"model_path": "a"}], {}, {}),
    (lambda c: c.init({"top_k": 1}, model_path="a"), "rkllm.init", [None, {"top_k": 1, "model_path": "a"}], {}, {}),
    (lambda c: c.init({"top_k": 1}, top_k=2), "rkllm.init", [None, {"top_k": 2}], {}, {}),
    (
        lambda c: c.loadLora({"lora_adapter_path": "p"}),
        "rkllm.load_lora",
        [None, {"lora_adapter_path": "p"}],
        {},
        {},
    ),
    (lambda c: c.loadPromptCache("p"), "rkllm.load_prompt_cache", [None, "p"], {}, {}),
    (lambda c: c.releasePromptCache(), "rkllm.release_prompt_cache", None, {}, {}),
    (lambda c: c.clearKVCache(True), "rkllm.clear_kv_cache", [None, True, None, None], {}, {}),
    (lambda c: c.clearKVCache(False, [1], [2]), "rkllm.clear_kv_cache", [None, False, [1], [2]], {}, {}),
    (lambda c: c.getKVCacheSize(), "rkllm.get_kv_cache_size", None, {"cache_sizes": [3]}, [3]),
    (lambda c: c.setChatTemplate("a", "b", "c"), "rkllm.set_chat_template", [None, "a", "b", "c"], {}, {}),
    (lambda c: c.setFunctionTools("a", [{}], "c"), "rkllm.set_function_tools", [None, "a", [{}], "c"], {}, {}),
    (
        lambda c: c.setCrossAttnParams({"num_tokens": 1}),
        "rkllm.set_cross_attn_params",
        [None, {"num_tokens": 1}],
        {},
        {},
    ),
    (lambda c: c.serverStatus(), "server.status", None, {"version": "1"}, {"version": "1"}),
    (lambda c: c.discover(), "rpc.discover", None, {"openrpc": "1"}, {"openrpc": "1"}),
]


@pytest.mark.parametrize(("call", "method", "params", "result", "expected"), METHODS, ids=[row[1] for row in METHODS])
def test_methodsOfTheWire(
    server: Server,
    call: Callable[[RKLLMClient], Deferred[Any]],
    method: str,
    params: object,
    result: object,
    expected: object,
) -> None:
    """W-PARAMS: by position, with the handle."""
    called = call(server.client)
    request = server.request()
    assert (request["method"], request.get("params")) == (method, params)
    server.answer(request["id"], result)
    assert outcome(called) == [expected]


def test_structsAreWrittenUnderTheirWireNames(server: Server) -> None:
    server.client.init(RKLLMParam(model_path="m", top_k=3)).addErrback(lambda _: None)
    param = server.request()["params"][1]
    assert (param["model_path"], param["top_k"], param["extend_param"]["n_batch"]) == ("m", 3, 1)
    stream = server.client.run(RKLLMInput(input_type=0, prompt_input="hi"), RKLLMInferParam(keep_history=1))
    _, prompt, inferParam, _ = server.request()["params"]
    assert (prompt["input_type"], prompt["prompt_input"], inferParam["keep_history"]) == (0, "hi", 1)
    del stream


@pytest.mark.parametrize("kind", sorted(errors.BY_CODE.values(), key=lambda kind: kind.code), ids=lambda k: k.__name__)
def test_everyErrorIsItsOwnClass(server: Server, kind: type[errors.RKLLMError]) -> None:
    """W-CODES, W-ERRORS."""
    called = server.client.call("m")
    summary = (kind.__doc__ or "").partition("\n")[0]
    server.refuse(server.request()["id"], kind.code, f"{summary}: because", needs="x", retryable=False)
    error = failed(called)
    assert type(error) is kind
    assert str(error) == f"{summary}: because"
    assert error.data["needs"] == "x"


def test_anErrorThatSaysNoMoreThanItsName(server: Server) -> None:
    called = server.client.call("m")
    data = {"detail": "the names in data are the server's", "self": 1}
    server.say({"id": server.request()["id"], "error": {"code": -32001, "message": "busy", "data": data}})
    error = failed(called)
    assert str(error) == "busy"
    assert error.data == data


def test_anErrorOfACodeNotKnown(server: Server) -> None:
    called = server.client.call("m")
    server.say({"id": server.request()["id"], "error": {"code": -31999, "message": "odd"}})
    error = failed(called)
    assert isinstance(error, errors.RemoteError)
    assert (error.code, error.detail) == (-31999, "odd")


@pytest.mark.parametrize("params", [[object()], ["\udc80"]])
def test_whatIsNoJsonFailsAndSendsNothing(server: Server, params: list[object]) -> None:
    assert isinstance(failed(server.client.call("m", params)), (TypeError, ValueError))
    assert server.received() == []


def test_cancellingACallCancelsTheRequest(server: Server) -> None:
    """W-CANCEL, as a notification."""
    called = server.client.call("rkllm.init", [None, {}])
    id = server.request()["id"]
    called.cancel()
    assert isinstance(failed(called), CancelledError)
    assert server.request() == {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": id}}
    server.refuse(id, -32800, "cancelled")  # the last line still comes, and nobody minds


def test_aCallCanHaveATimeout(server: Server) -> None:
    clock = Clock()
    called = server.client.call("m").addTimeout(5, clock)
    server.received()
    clock.advance(6)
    assert failed(called).__class__.__name__ == "TimeoutError"
    assert server.request()["method"] == "$/cancelRequest"


def test_callOfAStreamFiresWithItsLastResult(server: Server) -> None:
    called = server.client.call("rkllm.run_async", [None, {}])
    id = server.request()["id"]
    server.answer(id, {"success": True, "message": "started"}, token("a"))
    assert outcome(called) == []
    server.answer(id, finish())
    assert fired(called)["finish_reason"] == "stop"


# Streams


def test_runYieldsEachLineAndTheFinish(server: Server) -> None:
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


def test_theRequestGoesOutBeforeItIsIterated(server: Server) -> None:
    """W-STATE: init and run may be sent in one packet."""
    loaded = server.client.init(model_path="m")
    stream = server.client.run("hi")
    init, run = server.received()
    assert (init["method"], run["method"]) == ("rkllm.init", "rkllm.run")
    server.answer(init["id"], {"success": True, "message": ""})
    server.answer(run["id"], token("a"), finish())
    assert outcome(loaded) == [{"success": True, "message": ""}]
    assert Reader(stream).texts == ["a", None]


def test_fieldsNotKnownAreTolerated(server: Server) -> None:
    reader = Reader(server.client.run("hi"))
    server.answer(server.request()["id"], token("a", odd={"x": 1}, batch_index=1), {"_callback_state": 2, "odd": 1})
    assert outcome(reader.done) == ["ended"]
    assert reader.results[0].batch_index == 1


def test_tensors(server: Server) -> None:
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


def test_runAsyncConsumesTheAcknowledgement(server: Server) -> None:
    reader = Reader(server.client.runAsync("hi"))
    request = server.request()
    assert request["method"] == "rkllm.run_async"
    server.answer(request["id"], {"success": True, "message": "started"})
    assert (reader.results, outcome(reader.done)) == ([], [])
    server.answer(request["id"], token("a"), finish())
    assert reader.texts == ["a", None]


def test_runAsyncWithoutAnAcknowledgement(server: Server) -> None:
    """Delivered whole, there is none."""
    reader = Reader(server.client.runAsync("hi", delivery={"stream": "whole"}))
    server.answer(server.request()["id"], finish(text="all of it"))
    assert outcome(reader.done) == ["ended"]
    assert reader.texts == ["all of it"]


def test_streamGivesTheJsonAsItCame(server: Server) -> None:
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


def test_severalStreamsAtOnce(server: Server) -> None:
    """W-ORDER: lines of different requests interleave."""
    first, second = Reader(server.client.run("1")), Reader(server.client.run("2"))
    a, b = (request["id"] for request in server.received())
    for result in (token("x"), token("y"), finish()):
        server.answer(a, result)
        server.answer(b, {**result, "text": result["text"] and result["text"].upper()})
    assert (first.texts, second.texts) == (["x", "y", None], ["X", "Y", None])


def test_anyPieces(server: Server) -> None:
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


def test_aLongReplyCostsTimeLinearInItsLength(server: Server) -> None:
    called = server.client.call("m")
    id = server.request()["id"]
    text = "x" * (24 << 20)
    line = b'{"id":%d,"result":"%b"}\n' % (id, text.encode())
    pieces = [line[at : at + 4096] for at in range(0, len(line), 4096)]  # 6,000 of them: quadratic takes a minute
    for piece in pieces:
        server.protocol.dataReceived(piece)
    assert fired(called) == text


def test_progressIsYieldedAndItsResponseIsNot(server: Server) -> None:
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


def test_progressThatFails(server: Server) -> None:
    reader = Reader(server.client.run("hi", delivery={"stream": "progress"}))
    id = server.request()["id"]
    bad = token(None, 3, error={"code": -32006, "message": "backend lost", "data": {"signal": 9}})
    for result in (token("a"), bad):
        server.say({"method": "$/progress", "params": {"token": id, "value": result}})
    assert outcome(reader.done) == []
    server.answer(id, bad)
    assert isinstance(failed(reader.done), errors.BackendLost)
    assert reader.texts == ["a"]


def test_otherNotificationsAreTolerated(server: Server) -> None:
    reader = Reader(server.client.run("hi"))
    id = server.request()["id"]
    server.say(
        {"method": "$/news", "params": {"token": id}}, {"method": "$/progress", "params": {"token": 99, "value": 1}}
    )
    server.answer(id, finish())
    assert outcome(reader.done) == ["ended"]


def test_answersToIdsNotKnownAreTolerated(server: Server) -> None:
    reader = Reader(server.client.run("hi"))
    id = server.request()["id"]
    server.answer("nobody", token("x"))
    server.answer(id + 1000, token("x"))
    server.answer(id, finish())
    assert reader.texts == [None]


# Streams that fail


def test_anErrorBeforeTheFirstToken(server: Server) -> None:
    reader = Reader(server.client.run("hi"))
    server.refuse(server.request()["id"], -32000, "model not initialized", retryable=False)
    assert isinstance(failed(reader.done), errors.ModelNotInitialized)
    assert reader.results == []


def test_anErrorAfterTheFirstToken(server: Server) -> None:
    """W-FINISH: inside the line of state 3; the results before it are yielded first."""
    stream = server.client.run("hi")
    bad = {"code": -32006, "message": "backend lost: killed", "data": {"signal": 9, "retryable": True}}
    server.answer(server.request()["id"], token("a"), token("b"), token(None, 3, error=bad))
    reader = Reader(stream)
    error = failed(reader.done)
    assert isinstance(error, errors.BackendLost)
    assert (error.detail, error.data["signal"]) == ("killed", 9)
    assert reader.texts == ["a", "b"]


def test_aFailureWithoutAReason(server: Server) -> None:
    reader = Reader(server.client.run("hi"))
    server.answer(server.request()["id"], token("a"), token(None, 3))
    assert isinstance(failed(reader.done), errors.RemoteError)


def test_aResultThatIsNotOfAStream(server: Server) -> None:
    reader = Reader(server.client.run("hi"))
    server.answer(server.request()["id"], {"_callback_state": 0, "text": 5})
    assert "text" in str(failed(reader.done))
    assert server.request()["method"] == "$/cancelRequest"


# Leaving


async def readOne(stream: Any) -> StreamResult | None:
    async for result in stream:
        return result
    return None


def assertCancelled(server: Server, id: object) -> None:
    """W-CANCEL, exactly once."""
    assert server.received() == [{"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": id}}]


@pytest.mark.parametrize("isHeld", [False, True])
def test_breakCancels(server: Server, isHeld: bool) -> None:
    stream = server.client.run("hi")
    id = server.request()["id"]
    server.answer(id, token("a"), token("b"))
    reading = Deferred.fromCoroutine(readOne(stream))
    if not isHeld:
        del stream
    result = fired(reading)
    assert result is not None
    assert result.text == "a"
    assertCancelled(server, id)
    server.answer(id, token("c"), finish("abort"))  # dropped


def test_breakDropsWhatStillComes(server: Server) -> None:
    stream = server.client.run("hi")
    id = server.request()["id"]
    server.answer(id, token("a"), token("b"))
    fired(Deferred.fromCoroutine(readOne(stream)))
    server.answer(id, token("c"), finish("abort"))
    assert Reader(stream).results == []


def test_anExceptionInTheLoopCancels(server: Server) -> None:
    async def read() -> None:
        async for _ in server.client.run("hi"):
            raise KeyError("of the caller")

    reading = Deferred.fromCoroutine(read())
    id = server.request()["id"]
    server.answer(id, token("a"))
    assert isinstance(failed(reading), KeyError)
    assertCancelled(server, id)


def test_cancellingTheDeferredCancels(server: Server) -> None:
    reader = Reader(server.client.run("hi"))
    id = server.request()["id"]
    server.answer(id, token("a"))
    reader.done.cancel()
    assert isinstance(failed(reader.done), CancelledError)
    assertCancelled(server, id)
    server.answer(id, token("b"), finish("abort"))
    assert reader.texts == ["a"]


def test_acloseCancels(server: Server) -> None:
    stream = server.client.run("hi")
    id = server.request()["id"]
    fired(Deferred.fromCoroutine(stream.aclose()))
    assertCancelled(server, id)
    fired(Deferred.fromCoroutine(stream.aclose()))
    assert server.received() == []


def test_acloseEndsTheLoopThatWaits(server: Server) -> None:
    stream = server.client.run("hi")
    reader = Reader(stream)
    fired(Deferred.fromCoroutine(stream.aclose()))
    assert outcome(reader.done) == ["ended"]


def test_lettingGoOfAStreamCancels(server: Server) -> None:
    stream = server.client.run("hi")
    id = server.request()["id"]
    assert server.received() == []
    del stream
    assertCancelled(server, id)


def test_aStreamThatEndedIsNotCancelled(server: Server) -> None:
    stream = server.client.run("hi")
    id = server.request()["id"]
    server.answer(id, token("a"), finish())
    fired(Deferred.fromCoroutine(readOne(stream)))
    stream.abort()
    del stream
    assert server.received() == []


def test_abortOfOneStreamReadsOnToItsLastLine(server: Server) -> None:
    stream, other = server.client.run("hi"), Reader(server.client.run("other"))
    id, otherId = (request["id"] for request in server.received())
    reader = Reader(stream)
    server.answer(id, token("a"))
    stream.abort()
    stream.abort()
    assertCancelled(server, id)
    server.answer(id, token("b"), finish("abort"))
    assert outcome(reader.done) == ["ended"]
    assert reader.texts == ["a", "b", None]
    assert reader.results[-1].finish_reason == "abort"
    assert outcome(other.done) == []
    server.answer(otherId, finish())
    assert outcome(other.done) == ["ended"]


def test_abortBeforeTheFirstToken(server: Server) -> None:
    """W-ABORT, W-CANCEL: -32800 where no data came before."""
    stream = server.client.run("hi")
    reader = Reader(stream)
    id = server.request()["id"]
    stream.abort()
    server.refuse(id, -32800, "cancelled")
    assert isinstance(failed(reader.done), errors.Cancelled)


def test_oneLoopAtATime(server: Server) -> None:
    stream = server.client.run("hi")
    first = Reader(stream)
    second = Reader(stream)
    assert isinstance(failed(second.done), RuntimeError)
    assert outcome(first.done) == ["ended"]  # the second loop's end cancelled it
    server.received()


def test_resultsCanBeFetchedOneByOne(server: Server) -> None:
    async def one() -> StreamResult:
        return await stream.__anext__()

    stream = server.client.run("hi")
    server.answer(server.request()["id"], token("a"), finish())
    assert fired(Deferred.fromCoroutine(one())).text == "a"
    assert Reader(stream).texts == [None]


# The connection


def test_aLostConnectionFailsWhateverIsOpen(server: Server) -> None:
    called, reader, unread = server.client.call("m"), Reader(server.client.run("hi")), server.client.run("later")
    ids = [request["id"] for request in server.received()]
    server.answer(ids[1], token("a"))
    server.answer(ids[2], token("b"))
    reason = TransportLost()
    server.hangUp(reason)
    for deferred in (called, reader.done):
        error = failed(deferred)
        assert isinstance(error, ConnectionLost)
        assert error.__cause__ is reason
        assert "connection to the server lost" in str(error)
    late = Reader(unread)
    assert late.texts == ["b"]
    assert isinstance(failed(late.done), ConnectionLost)


def test_afterALostConnectionRequestsFailAtOnce(server: Server) -> None:
    server.hangUp()
    assert isinstance(failed(server.client.call("m")), ConnectionLost)
    assert isinstance(failed(Reader(server.client.run("hi")).done), ConnectionLost)
    assert isinstance(failed(Reader(server.client.runAsync("hi")).done), ConnectionLost)
    assert server.received() == []
    assert outcome(server.client.disconnect()) == [None]


def test_anExceptionHandlerMayCallAgain(server: Server) -> None:
    """What a failure wakes must not find the client half-way."""
    again: list[Any] = []
    server.client.call("m").addErrback(lambda _: again.append(failed(server.client.call("n"))))
    server.hangUp()
    assert [type(error) for error in again] == [ConnectionLost]


def test_disconnect(server: Server) -> None:
    called = server.client.call("m")
    done, twice = server.client.disconnect(), server.client.disconnect()
    assert isinstance(failed(called), ConnectionLost)
    assert "this client" in str(failed(server.client.call("n")))
    assert server.transport.disconnecting
    assert outcome(done) == []
    server.hangUp()
    assert outcome(done) == outcome(twice) == [None]
    assert outcome(server.client.disconnect()) == [None]


def test_cancellingDisconnectDoesNotWait(server: Server) -> None:
    done = server.client.disconnect()
    done.cancel()
    assert isinstance(failed(done), CancelledError)
    assert server.transport.disconnected
    server.hangUp()


def test_aConnectionTooManyIsToldSo(server: Server) -> None:
    """W-CLIENTS: one line with id null, then the end."""
    called, reader = server.client.call("m"), Reader(server.client.run("hi"))
    server.refuse(None, -32001, "busy: 100 clients", retryable=True)
    assert isinstance(failed(called), errors.Busy)
    assert isinstance(failed(reader.done), errors.Busy)
    assert server.transport.disconnecting
    server.hangUp()
    assert isinstance(failed(server.client.call("later")), errors.Busy)


def test_aRequestThatCouldNotBeReadDoesNotHang(server: Server) -> None:
    """W-LIMIT, W-ERRORS: answered with id null, because the server could not know whose it is."""
    called = server.client.call("m", [[[]]])
    server.refuse(None, -32700, "parse error: nested too deeply")
    assert isinstance(failed(called), errors.ParseError)


@pytest.mark.parametrize("line", [b"nonsense", b"[]", b'{"id":[1]}', b'{"id":1,"result":', b'"\xff"', b"[" * 100_000])
def test_aLineThatIsNoMessageEndsTheConnection(server: Server, line: bytes) -> None:
    called = server.client.call("m")
    server.protocol.dataReceived(line + b'\n{"id":1,"result":1}\n')
    assert isinstance(failed(called), ConnectionLost)
    assert server.transport.disconnecting


def test_aLineThatIsTooLongEndsTheConnection() -> None:
    server = connected(maxLine=100)
    called = server.client.call("m")
    server.protocol.dataReceived(b" " * 200)
    assert "too long" in str(failed(called))
    assert server.transport.disconnecting


def test_connectFailsAsTheEndpointDoes() -> None:
    reactor = MemoryReactorClock()
    connecting = RKLLMClient.connectTo(reactor, "/run/some.sock")
    (address, factory, *_) = reactor.unixClients[0]
    assert address == "/run/some.sock"
    factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))
    assert isinstance(failed(connecting), ConnectionRefusedError)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("/tmp/a.sock", UNIXClientEndpoint),
        ("a.sock", UNIXClientEndpoint),
        ("./unix:a", UNIXClientEndpoint),
        ("/tmp/a:b", UNIXClientEndpoint),
        ("unix:/tmp/a.sock", UNIXClientEndpoint),
        ("tcp:localhost:1", TCP4ClientEndpoint),
    ],
)
def test_endpointOf(address: str, kind: type) -> None:
    endpoint = endpointOf(MemoryReactorClock(), address)
    assert kind.__name__.startswith("TCP4") or isinstance(endpoint, kind)
    if address.startswith("unix:"):
        assert endpoint._path == "/tmp/a.sock"


def test_endpointOfAKindNotKnown() -> None:
    with pytest.raises(ValueError, match="carrierpigeon"):
        endpointOf(MemoryReactorClock(), "carrierpigeon:x")


@pytest.mark.parametrize("address", ["tcp:bad", "tcp:h:x", "tcp:h:1:odd=2", "unix:lockfile=1", "unix:a\\", "tls:h"])
def test_endpointOfNoEndpointString(address: str) -> None:
    with pytest.raises(ValueError, match="no client endpoint string"):
        endpointOf(MemoryReactorClock(), address)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("x" * 108, "at most 107 bytes, this one has 108"),
        ("é" * 54, "at most 107 bytes, this one has 108"),
        ("unix:" + "x" * 108, "at most 107 bytes, this one has 108"),
        ("tcp:h:65536", "from 0 to 65535, this one is 65536"),
        ("tcp:h:-1", "from 0 to 65535, this one is -1"),
    ],
)
def test_endpointOfWhatNoSocketCanHave(address: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RKLLMClient.connectTo(MemoryReactorClock(), address)


@pytest.mark.parametrize("address", ["x" * 107, "unix:" + "x" * 107, "tcp:h:65535"])
def test_endpointOfWhatASocketCanJustHave(address: str) -> None:
    endpointOf(MemoryReactorClock(), address)


class Echo(Protocol):
    """Answers every line with a stream of two."""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        for line in data.splitlines():
            id = json.loads(line)["id"]
            for result in (token("a"), finish()):
                self.transport.write(json.dumps({"jsonrpc": "2.0", "id": id, "result": result}).encode() + b"\n")


@pytest_twisted.ensureDeferred
async def test_overARealSocket(tmp_path: Any) -> None:
    from twisted.internet import reactor

    path = tmp_path / "s"
    port = await serverFromString(reactor, f"unix:{path}").listen(Factory.forProtocol(Echo))
    client = await RKLLMClient.connectTo(reactor, str(path))
    texts = [result.text async for result in client.run("hi")]
    assert texts == ["a", None]
    await client.disconnect()
    with pytest.raises(ConnectionLost):
        await client.isRunning()
    await port.stopListening()


def test_nothingHereNeedsTheGlobalReactor() -> None:
    import subprocess
    import sys

    code = "import sys, rkllm_twisted.client; sys.exit('twisted.internet.reactor' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

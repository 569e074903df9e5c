"""Calls of methods, their one result, and each error as its own class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from rkllm_twisted import errors
from rkllm_twisted.client import RKLLMClient
from rkllm_twisted.values import RKLLMInferParam, RKLLMInput, RKLLMParam
from tests.spoken_server import SpokenServer, failed, finish, fired, outcome, token


def test_callFiresWithTheResultOfItsOwnId(server: SpokenServer) -> None:
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
def test_aResultMayBeAnyJson(server: SpokenServer, result: object) -> None:
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
    server: SpokenServer,
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


def test_structsAreWrittenUnderTheirWireNames(server: SpokenServer) -> None:
    server.client.init(RKLLMParam(model_path="m", top_k=3)).addErrback(lambda _: None)
    param = server.request()["params"][1]
    assert (param["model_path"], param["top_k"], param["extend_param"]["n_batch"]) == ("m", 3, 1)
    stream = server.client.run(RKLLMInput(input_type=0, prompt_input="hi"), RKLLMInferParam(keep_history=1))
    _, prompt, inferParam, _ = server.request()["params"]
    assert (prompt["input_type"], prompt["prompt_input"], inferParam["keep_history"]) == (0, "hi", 1)
    del stream


@pytest.mark.parametrize("kind", sorted(errors.BY_CODE.values(), key=lambda kind: kind.code), ids=lambda k: k.__name__)
def test_everyErrorIsItsOwnClass(server: SpokenServer, kind: type[errors.RKLLMError]) -> None:
    """W-CODES, W-ERRORS."""
    called = server.client.call("m")
    summary = (kind.__doc__ or "").partition("\n")[0]
    server.refuse(server.request()["id"], kind.code, f"{summary}: because", needs="x", retryable=False)
    error = failed(called)
    assert type(error) is kind
    assert str(error) == f"{summary}: because"
    assert error.data["needs"] == "x"


def test_anErrorThatSaysNoMoreThanItsName(server: SpokenServer) -> None:
    called = server.client.call("m")
    data = {"detail": "the names in data are the server's", "self": 1}
    server.say({"id": server.request()["id"], "error": {"code": -32001, "message": "busy", "data": data}})
    error = failed(called)
    assert str(error) == "busy"
    assert error.data == data


def test_anErrorOfACodeNotKnown(server: SpokenServer) -> None:
    called = server.client.call("m")
    server.say({"id": server.request()["id"], "error": {"code": -31999, "message": "odd"}})
    error = failed(called)
    assert isinstance(error, errors.RemoteError)
    assert (error.code, error.detail) == (-31999, "odd")


@pytest.mark.parametrize("params", [[object()], ["\udc80"]])
def test_whatIsNoJsonFailsAndSendsNothing(server: SpokenServer, params: list[object]) -> None:
    assert isinstance(failed(server.client.call("m", params)), (TypeError, ValueError))
    assert server.received() == []


def test_cancellingACallCancelsTheRequest(server: SpokenServer) -> None:
    """W-CANCEL, as a notification."""
    called = server.client.call("rkllm.init", [None, {}])
    id = server.request()["id"]
    called.cancel()
    assert isinstance(failed(called), CancelledError)
    assert server.request() == {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": id}}
    server.refuse(id, -32800, "cancelled")  # the last line still comes, and nobody minds


def test_aCallCanHaveATimeout(server: SpokenServer) -> None:
    clock = Clock()
    called = server.client.call("m").addTimeout(5, clock)
    server.received()
    clock.advance(6)
    assert failed(called).__class__.__name__ == "TimeoutError"
    assert server.request()["method"] == "$/cancelRequest"


def test_callOfAStreamFiresWithItsLastResult(server: SpokenServer) -> None:
    called = server.client.call("rkllm.run_async", [None, {}])
    id = server.request()["id"]
    server.answer(id, {"success": True, "message": "started"}, token("a"))
    assert outcome(called) == []
    server.answer(id, finish())
    assert fired(called)["finish_reason"] == "stop"

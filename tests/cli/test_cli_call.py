"""``rkllm call``: any method, each line as it comes."""

from __future__ import annotations

import json

from tests.cli.inmemory import ACKNOWLEDGED, connected
from tests.spoken_server import finish, token


def test_callPrintsEachLineAsItComes() -> None:
    cli, server = connected("call", "rkllm.run_async", '[null, {"prompt_input": "hi"}]')
    request = server.request()
    assert (request["method"], request["params"]) == ("rkllm.run_async", [None, {"prompt_input": "hi"}])
    server.answer(request["id"], ACKNOWLEDGED)
    assert json.loads(cli.out) == ACKNOWLEDGED
    server.answer(request["id"], token("a"))
    assert cli.out.count("\n") == 2
    server.answer(request["id"], finish())
    assert [json.loads(line) for line in cli.out.splitlines()] == [ACKNOWLEDGED, token("a"), finish()]
    assert (cli.err, cli.status) == ("", 0)


def test_callThatFails() -> None:
    cli, server = connected("call", "rkllm.init", "[]")
    server.refuse(server.request()["id"], -32001, "busy", retryable=True, queue_length=64)
    assert (cli.out, cli.err, cli.status) == ("", 'rkllm: busy (-32001) {"queue_length":64}\n', 1)


def test_callSaysWhatTheServerSays() -> None:
    """The hint at --model is for those who can give it."""
    cli, server = connected("call", "rkllm.destroy")
    server.refuse(server.request()["id"], -32000, "model not initialized", retryable=False)
    assert cli.err == "rkllm: model not initialized (-32000)\n"


def test_callInterrupted() -> None:
    cli, server = connected("call", "rkllm.run", "[]")
    id = server.request()["id"]
    server.answer(id, token("a"))
    cli.interrupt()
    assert server.request()["method"] == "$/cancelRequest"
    server.answer(id, finish("abort"))
    assert (cli.out.count("\n"), cli.status) == (2, 130)
    cli, server = connected("call", "rkllm.run", "[]")
    id = server.request()["id"]
    cli.interrupt()
    server.refuse(id, -32800, "cancelled")
    assert (cli.err, cli.status) == ("", 130)

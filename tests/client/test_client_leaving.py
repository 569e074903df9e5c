"""A stream that is left before its end, by whatever way: its request is cancelled, once."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from rkllm_twisted import errors
from rkllm_twisted.client import StreamResult
from tests.spoken_server import Reader, SpokenServer, failed, finish, fired, outcome, token


async def readOne(stream: Any) -> StreamResult | None:
    async for result in stream:
        return result
    return None


def assertCancelled(server: SpokenServer, id: object) -> None:
    """W-CANCEL, exactly once."""
    assert server.received() == [{"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": id}}]


@pytest.mark.parametrize("isHeld", [False, True])
def test_breakCancels(server: SpokenServer, isHeld: bool) -> None:
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


def test_breakDropsWhatStillComes(server: SpokenServer) -> None:
    stream = server.client.run("hi")
    id = server.request()["id"]
    server.answer(id, token("a"), token("b"))
    fired(Deferred.fromCoroutine(readOne(stream)))
    server.answer(id, token("c"), finish("abort"))
    assert Reader(stream).results == []


def test_anExceptionInTheLoopCancels(server: SpokenServer) -> None:
    async def read() -> None:
        async for _ in server.client.run("hi"):
            raise KeyError("of the caller")

    reading = Deferred.fromCoroutine(read())
    id = server.request()["id"]
    server.answer(id, token("a"))
    assert isinstance(failed(reading), KeyError)
    assertCancelled(server, id)


def test_cancellingTheDeferredCancels(server: SpokenServer) -> None:
    reader = Reader(server.client.run("hi"))
    id = server.request()["id"]
    server.answer(id, token("a"))
    reader.done.cancel()
    assert isinstance(failed(reader.done), CancelledError)
    assertCancelled(server, id)
    server.answer(id, token("b"), finish("abort"))
    assert reader.texts == ["a"]


def test_acloseCancels(server: SpokenServer) -> None:
    stream = server.client.run("hi")
    id = server.request()["id"]
    fired(Deferred.fromCoroutine(stream.aclose()))
    assertCancelled(server, id)
    fired(Deferred.fromCoroutine(stream.aclose()))
    assert server.received() == []


def test_acloseEndsTheLoopThatWaits(server: SpokenServer) -> None:
    stream = server.client.run("hi")
    reader = Reader(stream)
    fired(Deferred.fromCoroutine(stream.aclose()))
    assert outcome(reader.done) == ["ended"]


def test_lettingGoOfAStreamCancels(server: SpokenServer) -> None:
    stream = server.client.run("hi")
    id = server.request()["id"]
    assert server.received() == []
    del stream
    assertCancelled(server, id)


def test_aStreamThatEndedIsNotCancelled(server: SpokenServer) -> None:
    stream = server.client.run("hi")
    id = server.request()["id"]
    server.answer(id, token("a"), finish())
    fired(Deferred.fromCoroutine(readOne(stream)))
    stream.abort()
    del stream
    assert server.received() == []


def test_abortOfOneStreamReadsOnToItsLastLine(server: SpokenServer) -> None:
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


def test_abortBeforeTheFirstToken(server: SpokenServer) -> None:
    """W-ABORT, W-CANCEL: -32800 where no data came before."""
    stream = server.client.run("hi")
    reader = Reader(stream)
    id = server.request()["id"]
    stream.abort()
    server.refuse(id, -32800, "cancelled")
    assert isinstance(failed(reader.done), errors.Cancelled)


def test_oneLoopAtATime(server: SpokenServer) -> None:
    stream = server.client.run("hi")
    first = Reader(stream)
    second = Reader(stream)
    assert isinstance(failed(second.done), RuntimeError)
    assert outcome(first.done) == ["ended"]  # the second loop's end cancelled it
    server.received()


def test_resultsCanBeFetchedOneByOne(server: SpokenServer) -> None:
    async def one() -> StreamResult:
        return await stream.__anext__()

    stream = server.client.run("hi")
    server.answer(server.request()["id"], token("a"), finish())
    assert fired(Deferred.fromCoroutine(one())).text == "a"
    assert Reader(stream).texts == [None]

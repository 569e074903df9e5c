"""The other end of a client: a server that says exactly the lines of the wire contract, on a transport in memory."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from rkllm_twisted.client import RKLLMClient

T = TypeVar("T")
NO_TENSORS = {
    "last_hidden_layer": {"hidden_states": None, "embd_size": 0, "num_tokens": 0},
    "logits": {"logits": None, "vocab_size": 0, "num_tokens": 0},
}
NO_PERF = {
    "prefill_time_ms": 0.0,
    "prefill_tokens": 0,
    "generate_time_ms": 0.0,
    "generate_tokens": 0,
    "memory_usage_mb": 0.0,
}
PERF = {
    "prefill_time_ms": 20.0,
    "prefill_tokens": 10,
    "generate_time_ms": 50,
    "generate_tokens": 2,
    "memory_usage_mb": 99.5,
}


def token(text: str | None, state: int = 0, **more: object) -> dict[str, Any]:
    return {"text": text, "token_id": 7, **NO_TENSORS, "perf": NO_PERF, "_callback_state": state, **more}


def finish(reason: str = "stop", **more: object) -> dict[str, Any]:
    return {**token(None, 2), "token_id": -1, "perf": PERF, "finish_reason": reason, **more}


class SpokenServer:
    """Reads what the client wrote, and says lines.

    Args:
        protocol: The client's, which is connected to this.
    """

    client: RKLLMClient

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self.transport = StringTransport()
        protocol.makeConnection(self.transport)

    def received(self) -> list[dict[str, Any]]:
        written = self.transport.value()
        self.transport.clear()
        assert not written or written.endswith(b"\n")
        return [json.loads(line) for line in written.splitlines()]

    def request(self) -> dict[str, Any]:
        (request,) = self.received()
        return request

    def say(self, *messages: dict[str, Any]) -> None:
        lines = [json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n" for message in messages]
        self.protocol.dataReceived(b"".join(lines))

    def answer(self, id: object, *results: object) -> None:
        self.say(*({"id": id, "result": result} for result in results))

    def refuse(self, id: object, code: int, message: str, **data: object) -> None:
        self.say({"id": id, "error": {"code": code, "message": message, "data": data}})

    def hangUp(self, reason: Exception | None = None) -> None:
        self.protocol.connectionLost(Failure(reason or ConnectionDone()))


def outcome(deferred: Deferred[T]) -> list[Any]:
    """What it has fired with so far: nothing, a result or an exception. May be asked again."""
    seen: list[Any] | None = vars(deferred).get("seenByTest")
    if seen is None:
        seen = vars(deferred)["seenByTest"] = []
        deferred.addCallbacks(seen.append, lambda failure: seen.append(failure.value))
    return seen


def fired(deferred: Deferred[T]) -> T:
    (result,) = outcome(deferred)
    if isinstance(result, BaseException):
        raise result
    return result


def failed(deferred: Deferred[Any]) -> BaseException:
    (error,) = outcome(deferred)
    assert isinstance(error, BaseException)
    return error


@implementer(IStreamClientEndpoint)
class MemoryEndpoint:
    """Connects to a `SpokenServer`."""

    def connect(self, factory: Factory) -> Deferred[Protocol]:
        self.server = SpokenServer(factory.buildProtocol(None))
        return succeed(self.server.protocol)


def connected(**options: int) -> SpokenServer:
    """A server, with the client that is connected to it."""
    endpoint = MemoryEndpoint()
    client = fired(RKLLMClient.connect(endpoint, **options))
    endpoint.server.client = client
    return endpoint.server


class Reader:
    """A coroutine that reads a stream to its end and keeps what it saw."""

    def __init__(self, stream: Any) -> None:
        self.results: list[Any] = []
        self.done = Deferred.fromCoroutine(self._read(stream))

    async def _read(self, stream: Any) -> str:
        async for result in stream:
            self.results.append(result)
        return "ended"

    @property
    def texts(self) -> list[str | None]:
        return [result.text for result in self.results]

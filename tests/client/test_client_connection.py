"""The connection: made, lost, closed, and ended by a server that talks nonsense."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import ConnectionLost as TransportLost
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from rkllm_twisted import errors
from rkllm_twisted.client import ConnectionLost, RKLLMClient
from tests.spoken_server import Reader, SpokenServer, connected, failed, finish, outcome, token


def test_aLostConnectionFailsWhateverIsOpen(server: SpokenServer) -> None:
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


def test_afterALostConnectionRequestsFailAtOnce(server: SpokenServer) -> None:
    server.hangUp()
    assert isinstance(failed(server.client.call("m")), ConnectionLost)
    assert isinstance(failed(Reader(server.client.run("hi")).done), ConnectionLost)
    assert isinstance(failed(Reader(server.client.runAsync("hi")).done), ConnectionLost)
    assert server.received() == []
    assert outcome(server.client.disconnect()) == [None]


def test_anExceptionHandlerMayCallAgain(server: SpokenServer) -> None:
    """What a failure wakes must not find the client half-way."""
    again: list[Any] = []
    server.client.call("m").addErrback(lambda _: again.append(failed(server.client.call("n"))))
    server.hangUp()
    assert [type(error) for error in again] == [ConnectionLost]


def test_disconnect(server: SpokenServer) -> None:
    called = server.client.call("m")
    done, twice = server.client.disconnect(), server.client.disconnect()
    assert isinstance(failed(called), ConnectionLost)
    assert "this client" in str(failed(server.client.call("n")))
    assert server.transport.disconnecting
    assert outcome(done) == []
    server.hangUp()
    assert outcome(done) == outcome(twice) == [None]
    assert outcome(server.client.disconnect()) == [None]


def test_cancellingDisconnectDoesNotWait(server: SpokenServer) -> None:
    done = server.client.disconnect()
    done.cancel()
    assert isinstance(failed(done), CancelledError)
    assert server.transport.disconnected
    server.hangUp()


def test_aConnectionTooManyIsToldSo(server: SpokenServer) -> None:
    """W-CLIENTS: one line with id null, then the end."""
    called, reader = server.client.call("m"), Reader(server.client.run("hi"))
    server.refuse(None, -32001, "busy: 100 clients", retryable=True)
    assert isinstance(failed(called), errors.Busy)
    assert isinstance(failed(reader.done), errors.Busy)
    assert server.transport.disconnecting
    server.hangUp()
    assert isinstance(failed(server.client.call("later")), errors.Busy)


def test_aRequestThatCouldNotBeReadDoesNotHang(server: SpokenServer) -> None:
    """W-LIMIT, W-ERRORS: answered with id null, because the server could not know whose it is."""
    called = server.client.call("m", [[[]]])
    server.refuse(None, -32700, "parse error: nested too deeply")
    assert isinstance(failed(called), errors.ParseError)


@pytest.mark.parametrize("line", [b"nonsense", b"[]", b'{"id":[1]}', b'{"id":1,"result":', b'"\xff"', b"[" * 100_000])
def test_aLineThatIsNoMessageEndsTheConnection(server: SpokenServer, line: bytes) -> None:
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
    code = "import sys, rkllm_twisted.client; sys.exit('twisted.internet.reactor' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

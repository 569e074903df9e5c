"""The server on real sockets: what closing, half-closing and limits do."""

import os
import socket

import msgspec
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint, UNIXServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock

from rkllm_twisted.backends.scripted import ScriptedBackend
from rkllm_twisted.server import LINGER
from rkllm_twisted.testing.peers import Server


class Client(Protocol):
    """Keeps what comes, and can wait for it."""

    def __init__(self):
        self.data = b""
        self.closed = Deferred()
        self._waiting = []

    def dataReceived(self, data):
        self.data += data
        for waiting in list(self._waiting):
            lines, done = waiting
            if self.data.count(b"\n") >= lines:
                self._waiting.remove(waiting)
                done.callback(None)

    def connectionLost(self, reason):
        self.closed.callback(None)

    async def lines(self, count):
        """The first lines, when they have come."""
        if self.data.count(b"\n") < count:
            done = Deferred()
            self._waiting.append((count, done))
            await done
        return [msgspec.json.decode(line) for line in self.data.splitlines()[:count]]

    def ask(self, method, *params, id=1):
        message = {"jsonrpc": "2.0", "id": id, "method": method, "params": list(params)}
        self.transport.write(msgspec.json.encode(message) + b"\n")


class Served:
    """A server on a Unix socket."""

    def __init__(self, path, **options):
        self.clock = Clock()
        self.path = path
        self.server = Server(ScriptedBackend(self.clock, interval=1), self.clock, **options)
        self.server.factory.reactor = reactor

    async def start(self):
        self.port = await UNIXServerEndpoint(reactor, self.path).listen(self.server.factory)
        return self

    async def connect(self):
        return await UNIXClientEndpoint(reactor, self.path).connect(Factory.forProtocol(Client))

    async def stop(self):
        await self.port.stopListening()
        await self.server.factory.closeAll()


@pytest.fixture
def served(tmp_path):
    return lambda **options: Served(str(tmp_path / "s"), **options)


@pytest_twisted.ensureDeferred
async def test_peer_that_is_gone_takes_its_waiting_run_with_it(served):
    """W-GONE, W-HALFCLOSE: also when it had ended its writing side before."""
    server = await served().start()
    client, other = await server.connect(), await server.connect()
    client.ask("rkllm.init", {"model_path": "any"})
    await client.lines(1)
    client.ask("rkllm.run", {"prompt_input": "one"})
    client.ask("rkllm.is_running", id="r")
    client.transport.loseWriteConnection()
    assert (await client.lines(2))[1]["result"]["is_running"] is True
    client.transport.abortConnection()
    await client.closed
    await untilGone(server, 1)
    server.clock.advance(0)  # the generation notices that it was aborted
    other.ask("rkllm.is_running")
    assert (await other.lines(1))[0]["result"]["is_running"] is False
    other.transport.loseConnection()
    await other.closed
    await server.stop()


async def untilGone(server, left):
    """Until the server has noticed."""
    while len(server.server.factory._connected) > left:
        turn = Deferred()
        reactor.callLater(0, turn.callback, None)
        await turn


@pytest_twisted.ensureDeferred
async def test_peer_that_has_ended_its_writing_gets_every_answer(served):
    """W-HALFCLOSE: also to a last line without a line feed."""
    server = await served().start()
    client = await server.connect()
    client.ask("rkllm.init", {"model_path": "any"})
    client.transport.write(b'{"jsonrpc":"2.0","id":2,"method":"rkllm.is_running"}')
    client.transport.loseWriteConnection()
    await client.closed
    assert [message["id"] for message in await client.lines(2)] == [1, 2]
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_line_over_the_limit_is_answered_once(served):
    """W-LIMIT: the answer arrives although the peer is still sending."""
    server = await served(maxLine=1000).start()
    client = await server.connect()
    client.ask("rkllm.is_running")
    client.transport.write(b"x" * 3_000_000)
    answers = await client.lines(2)
    assert answers[1]["error"]["code"] == -32600
    assert answers[1]["id"] is None
    client.transport.loseConnection()
    await client.closed
    assert client.data.count(b"\n") == 2
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_client_over_the_limit_is_told_so(served):
    """W-CLIENTS."""
    server = await served(maxClients=2).start()
    first, second = await server.connect(), await server.connect()
    third = await server.connect()
    [answer] = await third.lines(1)
    assert (answer["id"], answer["error"]["code"]) == (None, -32001)
    third.transport.loseConnection()
    await third.closed
    first.transport.loseConnection()
    await untilGone(server, 1)
    fourth = await server.connect()
    fourth.ask("rkllm.is_running")
    assert "result" in (await fourth.lines(1))[0]
    for client in (second, fourth):
        client.transport.loseConnection()
        await client.closed
    await server.stop()


def test_requests_before_a_line_over_the_limit_get_their_last_lines():
    """W-LIMIT, W-LAST: running or waiting, and nothing comes after."""
    clock = Clock()
    peer = Server(ScriptedBackend(clock, interval=1), clock, maxLine=200).connect()
    peer.ask("rkllm.init", {"model_path": "any"})
    for id in (1, 2):
        peer.send({"jsonrpc": "2.0", "id": id, "method": "rkllm.run", "params": [{"prompt_input": "one two"}]})
    peer.received(1)
    peer.send(b"x" * 300)
    answers = [(answer["id"], answer["error"]["code"]) for answer in peer.received()]
    assert answers == [(None, -32600), (1, -32800), (2, -32800)]
    assert peer.received(LINGER - 1) == []
    peer.disconnect()


def test_refused_peer_that_does_not_close_is_closed_upon():
    """W-LIMIT: after 5 s."""
    server = Server(ScriptedBackend(Clock()), Clock(), maxLine=10)
    peer = server.connect()
    peer.send(b"x" * 100)
    [answer] = peer.received()
    assert answer["error"]["code"] == -32600
    assert peer.transport.writeClosed
    peer.send({"jsonrpc": "2.0", "id": 1, "method": "rkllm.is_running"})
    assert peer.received(LINGER - 0.1) == []
    assert not peer.transport.aborting
    peer.received(0.2)
    assert peer.transport.aborting


@pytest_twisted.ensureDeferred
async def test_many_requests_at_once_by_a_client_that_reads_later(served):
    """W-SPLIT, W-ORDER: more answers than any buffer holds, in order."""
    server = await served().start()
    client = await server.connect()
    client.transport.pauseProducing()
    for number in range(20_000):
        client.ask("rkllm.is_running", id=number)
    reactor.callLater(0.05, client.transport.resumeProducing)
    answers = await client.lines(20_000)
    assert [answer["id"] for answer in answers] == list(range(20_000))
    client.transport.loseConnection()
    await client.closed
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_peer_is_known(served):
    """W-ABORT: by what the kernel says of it."""
    server = await served().start()
    client = await server.connect()
    client.ask("rkllm.is_running")
    await client.lines(1)
    [protocol] = server.server.factory._connected
    assert protocol._connection.peer.uid == os.getuid()
    assert protocol._connection.peer.pid == os.getpid()
    client.transport.loseConnection()
    await client.closed
    await server.stop()


def test_pieces_and_packets():
    """W-SPLIT."""
    peer = Server(ScriptedBackend(Clock()), Clock()).connect()
    ask = b'{"jsonrpc":"2.0","id":%d,"method":"rkllm.is_running"}\n'
    for byte in ask % 1:
        peer.send(bytes([byte]))
    peer.send(ask % 2 + ask % 3 + (ask % 4)[:20])
    peer.send((ask % 4)[20:])
    assert [message["id"] for message in peer.received()] == [1, 2, 3, 4]


def test_transport_without_a_peer(served):
    """A server endpoint may be of any kind; what is not a Unix socket does not tell who is there."""
    from rkllm_twisted.server import peerOf

    with socket.socket() as tcp:
        assert peerOf(tcp) is None

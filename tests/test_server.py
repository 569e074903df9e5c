"""The server on real sockets: what closing, half-closing and limits do."""

import os
import socket

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import Clock

from rkllm_twisted.backends.scripted import ScriptedBackend
from rkllm_twisted.server import LINGER
from rkllm_twisted.testing.peers import Server
from tests.served import Served, untilGone


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


REQUEST = b'{"jsonrpc":"2.0","id":1,"method":"rkllm.is_running"}\n'


def limited(seconds=10):
    """A peer of a server with such a limit for lines."""
    return Server(ScriptedBackend(Clock()), Clock(), lineLimit=seconds).connect()


def test_line_that_does_not_end():
    """W-LIMIT: whoever only ever begins a line is told so, and closed upon."""
    peer = limited()
    peer.send(REQUEST[:20])
    assert peer.received(9.9) == []
    [answer] = peer.received(0.2)
    assert (answer["id"], answer["error"]["code"]) == (None, -32600)
    assert "a line must end within 10 s" in answer["error"]["message"]
    assert peer.transport.writeClosed
    peer.send(REQUEST[20:])
    assert peer.received(LINGER) == []
    assert peer.transport.aborting


def test_byte_now_and_then_gives_a_line_no_more_time():
    """W-LIMIT, W-SPLIT."""
    peer = limited()
    for second in range(9):
        peer.send(REQUEST[second : second + 1])
        assert peer.received(1) == []
    peer.send(REQUEST[9:10])
    assert peer.received(1)[0]["error"]["code"] == -32600
    peer.disconnect()


def test_next_line_has_its_own_time():
    """W-SPLIT: also where the end of one comes with the beginning of the next."""
    peer = limited()
    peer.send(REQUEST[:20])
    for _ in range(5):
        assert peer.received(9) == []
        peer.send(REQUEST[20:] + REQUEST[:20])
        [answer] = peer.received()
        assert "result" in answer
    [refusal] = peer.received(10.1)
    assert refusal["error"]["code"] == -32600
    peer.disconnect()


def test_peer_that_says_nothing_may_stay():
    """Between its lines it may take all the time it wants, and leaves nothing waiting."""
    server = Server(ScriptedBackend(Clock()), Clock(), lineLimit=10)
    peer = server.connect()
    assert peer.received(1000) == []
    peer.send(REQUEST[:20])
    peer.send(REQUEST[20:])
    assert "result" in peer.received(1000)[0]
    peer.send(REQUEST[:-1])  # a message that lacks its line feed is whole
    assert "result" in peer.received(1000)[0]
    assert server.clock.getDelayedCalls() == []


def test_line_that_does_not_end_costs_the_running_requests_no_last_line():
    """W-LAST, W-LIMIT."""
    clock = Clock()
    peer = Server(ScriptedBackend(clock, interval=100), clock, lineLimit=10).connect()
    peer.ask("rkllm.init", {"model_path": "any"})
    peer.ask("rkllm.run", {"prompt_input": "one"})
    peer.send(b"{")
    assert [(answer["id"], answer["error"]["code"]) for answer in peer.received(11)] == [(None, -32600), (1, -32800)]
    peer.disconnect()


def test_lost_peer_leaves_no_limit_behind():
    """W-GONE."""
    for end in (lambda peer: peer.disconnect(), lambda peer: (peer.finishWriting(), peer.disconnect())):
        server = Server(ScriptedBackend(Clock()), Clock(), lineLimit=10)
        peer = server.connect()
        peer.send(REQUEST[:20])
        end(peer)
        assert server.clock.getDelayedCalls() == []


def descriptors():
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))


@pytest_twisted.ensureDeferred
async def test_a_thousand_connection_attempts(served):
    """W-CLIENTS: each one over the limit is told so, and the descriptors are what they were afterwards."""
    server = await served(maxClients=100).start()
    before = descriptors()
    clients = [await server.connect() for _ in range(100)]
    for client in clients:
        client.ask("rkllm.is_running")
        assert "result" in (await client.lines(1))[0]
    most = 0
    for _ in range(18):
        refused = [await server.connect() for _ in range(50)]
        for client in refused:
            [answer] = await client.lines(1)
            assert (answer["id"], answer["error"]["code"]) == (None, -32001)
            assert answer["error"]["data"]["retryable"] is True
        most = max(most, descriptors())
        for client in refused:
            client.transport.loseConnection()
            await client.closed
    assert most <= before + 2 * (100 + 100)
    clients[0].ask("rkllm.is_running", id=2)
    assert "result" in (await clients[0].lines(2))[1]
    for client in clients:
        client.transport.loseConnection()
        await client.closed
    await untilGone(server, 0)
    await server.stop()
    assert descriptors() <= before


@pytest_twisted.ensureDeferred
async def test_refused_peers_that_stay_take_as_many_descriptors_as_served_ones(served):
    """W-CLIENTS: they may stay for 5 s to read why, but not in any number."""
    server = await served(maxClients=20).start()
    clients = [await server.connect() for _ in range(20)]
    refused = []
    for _ in range(100):
        refused.append(await server.connect())
        assert (await refused[-1].lines(1))[0]["error"]["code"] == -32001
    for client in refused[:79]:
        await client.closed
    assert len(server.server.factory._open) <= 41
    clients[0].ask("rkllm.is_running")
    assert "result" in (await clients[0].lines(1))[0]
    for client in [*clients, *refused[79:]]:
        client.transport.loseConnection()
        await client.closed
    await untilGone(server, 0)
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_line_that_does_not_end_keeps_nobody_out(served):
    """W-LIMIT, W-CLIENTS: whoever has been told of it and lingers has had its place."""
    server = await served(maxClients=1, lineLimit=0.1).start()
    slow = await server.connect()
    slow.transport.write(REQUEST[:20])
    assert (await slow.lines(1))[0]["error"]["code"] == -32600
    following = await server.connect()
    following.ask("rkllm.is_running")
    assert "result" in (await following.lines(1))[0]
    third = await server.connect()
    assert (await third.lines(1))[0]["error"]["code"] == -32001
    for client in (slow, following, third):
        client.transport.loseConnection()
        await client.closed
    await untilGone(server, 0)
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_stop_closes_refused_connections_too(served):
    server = await served(maxClients=1).start()
    clients = [await server.connect() for _ in range(3)]
    for client in clients[1:]:
        await client.lines(1)
    await server.stop()
    assert server.server.factory._open == set()
    for client in clients:
        await client.closed

"""Peers that read slowly or not at all, on real sockets: what waits for them is bounded, and nobody else waits."""

import errno
import socket
from itertools import count
from types import SimpleNamespace

import msgspec
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint, UNIXServerEndpoint
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from rkllm_twisted import sockets
from rkllm_twisted.backends.scripted import ScriptedBackend, echo
from rkllm_twisted.testing.peers import Server
from tests.end_to_end.daemon import Daemon

BACKLOG = 64 * 1024
"""Small, so that little has to be sent until it is full."""
BUFFERS = 1024 * 1024
"""More than the kernel and Twisted keep of a stream on the way."""
TOO_SLOW = -32011


class Client(Protocol):
    """Keeps what comes while it reads, and can wait for a line."""

    def __init__(self):
        self.data = bytearray()
        self.answers = []
        self.ended = Deferred()
        self._waiting = []

    def dataReceived(self, data):
        self.data += data
        if b"\n" not in data:
            return
        *lines, rest = self.data.split(b"\n")
        self.data = bytearray(rest)
        self.answers += [msgspec.json.decode(line) for line in lines]
        for waiting in list(self._waiting):
            self._fireIfThere(waiting)

    def connectionLost(self, reason):
        self.ended.callback(None)

    def ask(self, method, *params, id=1):
        message = {"jsonrpc": "2.0", "id": id, "method": method, "params": list(params)}
        self.transport.write(msgspec.json.encode(message) + b"\n")

    def run(self, prompt, id=1, **delivery):
        self.ask("rkllm.run", {"prompt_input": prompt}, None, delivery or None, id=id)

    async def first(self, isWanted):
        """The first answer that is wanted, when it has come."""
        waiting = (isWanted, Deferred())
        self._waiting.append(waiting)
        self._fireIfThere(waiting)
        return await waiting[1]

    async def last(self, id=1):
        """The last line with an id, when it has come."""
        return await self.first(lambda answer: answer.get("id") == id and isLast(answer))

    def resultsOf(self, id):
        """All results with an id, progress included."""
        lines = [answer for answer in self.answers if answer.get("id") == id]
        told = [answer["params"]["value"] for answer in self.answers if answer.get("params", {}).get("token") == id]
        return [*told, *(line["result"] for line in lines)]

    def _fireIfThere(self, waiting):
        isWanted, there = waiting
        answer = next(filter(isWanted, self.answers), None)
        if answer is not None:
            self._waiting.remove(waiting)
            there.callback(answer)


def isLast(answer):
    return "error" in answer or answer["result"].get("_callback_state", 2) in (2, 3)


def isData(answer):
    return answer.get("result", {}).get("_callback_state") == 0


def script(input):
    """Numbers without end, one long text, or the words of the prompt."""
    if input.prompt_input == "endless":
        return (f" {number}" for number in count())
    return ["x" * 10_000] * 100 if input.prompt_input == "long" else echo(input)


@implementer(IPushProducer)
class Full:
    """Knows whether what was written still waits to go out."""

    isPaused = False

    def pauseProducing(self):
        self.isPaused = True

    def resumeProducing(self):
        self.isPaused = False

    def stopProducing(self):
        """The connection is closed."""


class Served:
    """A server on a Unix socket, with a model loaded."""

    def __init__(self, path, **options):
        self.path = path
        self.server = Server(ScriptedBackend(reactor, script), reactor, **options)

    async def start(self):
        self.port = await UNIXServerEndpoint(reactor, self.path).listen(self.server.factory)
        self.clients = []
        loader = await self.connect()
        loader.ask("rkllm.init", {"model_path": "any"})
        await loader.last()
        return self

    async def connect(self):
        self.clients.append(await UNIXClientEndpoint(reactor, self.path).connect(Factory.forProtocol(Client)))
        return self.clients[-1]

    async def stop(self):
        for client in self.clients:
            client.transport.abortConnection()
            await client.ended
        await self.port.stopListening()
        await self.server.factory.closeAll()


@pytest.fixture
def served(tmp_path):
    return lambda **options: Served(str(tmp_path / "s"), **options)


@pytest.mark.parametrize("stream", ["lines", "progress"])
@pytest_twisted.ensureDeferred
async def test_stream_that_nobody_reads_is_ended_and_the_next_is_served(served, stream):
    """W-SLOW, W-LAST, W-ORDER: what was written before comes whole, and the error is the last line."""
    server = await served(maxBacklog=BACKLOG).start()
    slow, other = await server.connect(), await server.connect()
    slow.transport.pauseProducing()
    slow.run("endless", stream=stream)
    words = " ".join(map(str, range(500)))
    other.run(words)
    assert (await other.last())["result"]["finish_reason"] == "stop"
    assert "".join(result["text"] or "" for result in other.resultsOf(1)) == words
    assert slow.answers == []
    slow.transport.resumeProducing()
    error = (await slow.last())["result"]["error"]
    assert (error["code"], error["data"]["retryable"]) == (TOO_SLOW, False)
    texts = [result["text"] for result in slow.resultsOf(1) if result["_callback_state"] == 0]
    assert texts == [f" {number}" for number in range(len(texts))]
    assert len(texts) * 300 < BACKLOG + BUFFERS
    slow.run("and now", id=2)
    assert (await slow.last(2))["result"]["finish_reason"] == "stop"
    assert isLast(slow.answers[-1])
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_others_are_answered_while_a_stream_waits_to_be_read(served):
    """W-SLOW: below the limit the generation goes on, and whoever needs no turn is answered between its tokens."""
    server = await served().start()
    slow, other = await server.connect(), await server.connect()
    slow.run("endless")
    await slow.first(isData)
    slow.transport.pauseProducing()
    for number in range(300):
        other.ask("rkllm.is_running", id=number)
        assert (await other.last(number))["result"]["is_running"] is True
    other.ask("rkllm.abort", id="abort")
    await other.last("abort")
    slow.transport.resumeProducing()
    assert (await slow.last())["result"]["finish_reason"] == "abort"
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_one_reply_however_large_is_not_too_much(served):
    """W-SLOW, W-OPTIONS: larger than the limit, and read late."""
    server = await served(maxBacklog=BACKLOG).start()
    slow, other = await server.connect(), await server.connect()
    slow.transport.pauseProducing()
    slow.run("long", stream="whole")
    other.run("one two")
    await other.last()
    slow.transport.resumeProducing()
    assert (await slow.last())["result"]["text"] == "x" * 1_000_000
    assert len(slow.answers) == 1
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_peer_that_reads_a_byte_at_a_time_gets_everything(served):
    """W-SLOW, W-ORDER, W-UTF8: while another is served."""
    server = await served().start()
    slow, other = await server.connect(), await server.connect()
    slow.transport.bufferSize = 1
    slow.run("eins 🦊 zwei über drei")
    for number in range(20):
        other.run(f"number {number}", id=number)
        assert (await other.last(number))["result"]["finish_reason"] == "stop"
    assert not any(isLast(answer) for answer in slow.answers), "it is to read for longer than the other took"
    assert (await slow.last())["result"]["finish_reason"] == "stop"
    assert [result["text"] for result in slow.resultsOf(1)] == ["eins", " 🦊", " zwei", " über", " drei", None]
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_peer_that_asks_and_asks_and_does_not_read_is_not_read_from(served):
    """W-SLOW, W-SPLIT: its questions wait in its own socket, and are answered in order once it reads."""
    server = await served(maxBacklog=BACKLOG).start()
    slow, other = await server.connect(), await server.connect()
    slow.transport.pauseProducing()
    questions, full = 20_000, Full()
    slow.transport.registerProducer(full, True)
    slow.transport.write(
        b"".join(b'{"jsonrpc":"2.0","id":%d,"method":"rkllm.get_constants"}\n' % number for number in range(questions))
    )
    for number in range(100):
        other.run("one two", id=number)
        await other.last(number)
    assert full.isPaused
    slow.transport.resumeProducing()
    await slow.last(questions - 1)
    assert not full.isPaused
    assert [answer["id"] for answer in slow.answers] == list(range(questions))
    slow.transport.unregisterProducer()
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_peer_that_has_not_read_and_leaves_is_forgotten(served):
    """W-GONE: with a generation running, one waiting, and lines that it has not read."""
    server = await served().start()
    slow, other = await server.connect(), await server.connect()
    slow.run("endless")
    slow.run("endless", id=2)
    await slow.first(isData)
    slow.transport.pauseProducing()
    other.run("one two")
    other.ask("server.status", id="before")
    assert (await other.last("before"))["result"]["queue"]["length"] == 2
    slow.transport.abortConnection()
    await slow.ended
    assert (await other.last())["result"]["finish_reason"] == "stop"
    other.ask("server.status", id="after")
    assert (await other.last("after"))["result"]["queue"]["length"] == 0
    other.ask("rkllm.is_running", id="running")
    assert (await other.last("running"))["result"]["is_running"] is False
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_peer_that_has_ended_its_writing_and_reads_late_gets_every_answer(served):
    """W-HALFCLOSE, W-SLOW: the server closes when all is read, not before."""
    server = await served(maxBacklog=BACKLOG).start()
    slow, other = await server.connect(), await server.connect()
    slow.transport.pauseProducing()
    slow.run("long", stream="whole")
    slow.run("endless", id=2)
    slow.run("three", id=3)
    slow.transport.loseWriteConnection()
    other.run("one two")
    await other.last()
    slow.transport.resumeProducing()
    await slow.ended
    assert len((await slow.last(1))["result"]["text"]) == 1_000_000
    last = await slow.last(2)
    assert last.get("error", last.get("result", {}).get("error"))["code"] == TOO_SLOW
    assert await slow.last(3)
    server.clients.remove(slow)
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_peer_that_has_ended_its_writing_is_served_without_a_free_descriptor(served, monkeypatch, logged):
    """W-HALFCLOSE: watching for its end takes one."""

    def exhausted():
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(sockets, "select", SimpleNamespace(epoll=exhausted))
    server = await served().start()
    client = await server.connect()
    client.run("one two")
    client.transport.loseWriteConnection()
    await client.ended
    assert (await client.last())["result"]["finish_reason"] == "stop"
    assert [event["reason"] for event in logged if "cannot be watched" in event["log_format"]] == [
        "Too many open files"
    ]
    server.clients.remove(client)
    await server.stop()


def test_daemon_with_a_limit(tmp_path):
    """W-SLOW, W-LAST: ``--max-backlog``, and a client that is a plain socket."""
    server = Daemon(tmp_path, "--backend", "scripted", "--model", "any", "--max-backlog", str(BACKLOG))
    slow, other = server.connect(), server.connect()
    slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.send("rkllm.run", None, {"prompt_input": "word " * 20_000}, None, None)
    other.send("rkllm.run", None, {"prompt_input": "one two"}, None, None)
    assert other.stream()[-1]["finish_reason"] == "stop"
    *tokens, end = slow.stream()
    assert 0 < len(tokens) < 20_000
    assert end["error"]["code"] == TOO_SLOW
    server.stop()

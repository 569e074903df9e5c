"""What waits for a peer (W-SLOW), apart from real sockets."""

import socket
from contextlib import suppress

import pytest
from twisted.internet import unix
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Protocol
from twisted.internet.testing import MemoryReactor
from twisted.python.failure import Failure

from rkllm_twisted.sockets import PIECE, Outbox


class Transport:
    """Takes one piece, then has enough until the test says that it has passed it on."""

    def __init__(self):
        self.written = []
        self.reads = True
        self.producer = None

    def registerProducer(self, producer, streaming):
        assert streaming
        self.producer = producer

    def unregisterProducer(self):
        self.producer = None

    def write(self, data):
        assert isinstance(data, bytes)
        assert len(data) <= PIECE
        self.written.append(data)
        if self.producer is not None:
            self.producer.pauseProducing()

    def pauseProducing(self):
        self.reads = False

    def resumeProducing(self):
        self.reads = True


@pytest.fixture
def outbox():
    return Outbox(Transport(), 100)


def test_order_is_kept(outbox):
    for data in (b"1", b"2", b"3"):
        outbox.write(data)
    assert outbox._transport.written == [b"1"]
    for _ in range(3):
        outbox.resumeProducing()
    assert outbox._transport.written == [b"1", b"23"]


def test_congested_above_the_limit_only(outbox):
    outbox.write(b"taken")
    outbox.write(b"x" * 100)
    assert not outbox.isCongested()
    outbox.write(b"x")
    assert outbox.isCongested()
    outbox.resumeProducing()
    assert not outbox.isCongested()


def test_large_reply_waits_to_the_byte(outbox):
    """What the transport has not taken counts, so a reply of any size is given to it in pieces."""
    data = bytes(range(256)) * 1024
    outbox.write(data)
    assert outbox.isCongested()
    while outbox.isCongested():
        outbox.resumeProducing()
    assert b"".join(outbox._transport.written) == data


def test_peer_that_does_not_read_is_not_read_from(outbox):
    """It could ask for more and more otherwise."""
    outbox.write(b"taken")
    outbox.write(b"x" * 101)
    assert not outbox._transport.reads
    outbox.resumeProducing()
    assert outbox._transport.reads


def test_end_waits_for_what_waits(outbox):
    ended = []
    outbox.write(b"1")
    outbox.write(b"2")
    outbox.whenEmpty(lambda: ended.append(1))
    assert not ended
    outbox.resumeProducing()
    assert ended == [1]
    assert outbox._transport.producer is None


def test_end_with_nothing_waiting(outbox):
    ended = []
    outbox.whenEmpty(lambda: ended.append(1))
    assert ended == [1]


def test_nothing_is_kept_for_a_peer_that_is_gone(outbox):
    outbox.write(b"1")
    outbox.write(b"x" * 200)
    outbox.stopProducing()
    outbox.write(b"y")
    assert not outbox.isCongested()


def test_what_is_held_goes_out_in_one(outbox):
    outbox.hold()
    outbox.write(b"1")
    outbox.write(b"2")
    assert outbox._transport.written == []
    outbox.release()
    assert outbox._transport.written == [b"12"]


def test_what_is_held_waits_for_what_was_before_it(outbox):
    outbox.write(b"1")
    outbox.hold()
    outbox.write(b"2")
    outbox.release()
    assert outbox._transport.written == [b"1"]
    outbox.resumeProducing()
    assert outbox._transport.written == [b"1", b"2"]


def test_what_is_held_counts_and_is_not_sent_early(outbox):
    outbox.hold()
    outbox.write(b"x" * 101)
    assert outbox.isCongested()
    outbox.resumeProducing()
    assert outbox._transport.written == []
    outbox.release()
    assert not outbox.isCongested()
    assert outbox._transport.reads


def test_end_waits_for_what_is_held(outbox):
    ended = []
    outbox.hold()
    outbox.write(b"1")
    outbox.whenEmpty(lambda: ended.append(1))
    assert not ended
    outbox.release()
    assert outbox._transport.written == [b"1"]
    assert ended == [1]


class Real:
    """An outbox of a real socket, whose reactor does nothing until it is told to."""

    def __init__(self):
        ours, self.peer = socket.socketpair()
        for end in (ours, self.peer):
            end.setblocking(False)
        self.transport = unix.Server(ours, Protocol(), "", None, 0, MemoryReactor())
        self.outbox = Outbox(self.transport, 2**20)

    def read(self):
        """What has arrived."""
        arrived = b""
        with suppress(BlockingIOError):
            while data := self.peer.recv(2**20):
                arrived += data
        return arrived

    def close(self):
        self.peer.close()
        self.transport.connectionLost(Failure(ConnectionDone()))


@pytest.fixture
def real():
    real = Real()
    yield real
    real.close()


def test_unix_socket_is_written_to_at_once(real):
    real.outbox.write(b"now")
    assert real.read() == b"now"
    assert real.transport not in real.transport.reactor.getWriters()


def test_nothing_overtakes_what_the_kernel_did_not_take(real):
    """The last is small, and the kernel has room for it when it comes."""
    written = [bytes([number]) * 50_000 for number in range(20)]
    for data in written:
        real.outbox.write(data)
    arrived = real.read()
    real.outbox.write(b"last")
    assert real.transport in real.transport.reactor.getWriters()
    while len(arrived) < 1_000_004:
        real.transport.doWrite()
        arrived += real.read()
    assert arrived == b"".join(written) + b"last"
    real.outbox.write(b"now")
    assert real.read() == b"now"


def test_end_of_a_unix_socket_waits_for_what_the_kernel_did_not_take(real):
    ended = []
    for _ in range(20):
        real.outbox.write(bytes(50_000))
    real.outbox.whenEmpty(lambda: ended.append(real.outbox.isCongested()))
    assert ended == []
    arrived = len(real.read())
    while arrived < 1_000_000:
        real.transport.doWrite()
        arrived += len(real.read())
    assert ended == [False]


def test_peer_that_is_gone_is_found_by_the_transport(real):
    real.peer.close()
    real.outbox.write(b"nobody")
    assert real.transport in real.transport.reactor.getWriters()
    assert isinstance(real.transport.doWrite(), ConnectionLost)


def test_what_comes_after_the_end_does_not_overtake(real):
    """Nobody tells any more when the transport keeps nothing, so it is not sent at once."""
    real.outbox.whenEmpty(lambda: None)
    real.outbox.write(b"late")
    assert real.read() == b""
    assert real.transport in real.transport.reactor.getWriters()
    real.transport.doWrite()
    assert real.read() == b"late"

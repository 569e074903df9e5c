"""What waits for a peer (W-SLOW), apart from real sockets."""

import pytest

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

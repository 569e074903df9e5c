"""One peer's conversation."""

from rkllm_twisted.errors import Cancelled, ParseError
from rkllm_twisted.wire.connection import Connection
from rkllm_twisted.wire.messages import resultLine

CALL = b'{"jsonrpc":"2.0","id":%b,"method":"m"}'


class Wire:
    """A connection, and what it did."""

    def __init__(self):
        self.written = []
        self.closed = 0
        self.connection = Connection(self.written.append, self.close)

    def close(self):
        self.closed += 1

    def call(self, id=b"1"):
        calls = self.connection.receive(CALL % id)
        return calls[0] if calls else None


def test_one_last_line():
    """W-LAST: nothing follows it, whoever tries."""
    wire = Wire()
    call = wire.call()
    call.write(resultLine(b"1", b"1"))
    call.finish(b"2")
    call.write(resultLine(b"1", b"3"))
    call.finish(b"4")
    call.fail(Cancelled())
    assert wire.written == [b'{"jsonrpc":"2.0","id":1,"result":%b}\n' % result for result in (b"1", b"2")]


def test_id_is_free_after_the_last_line():
    """W-ID."""
    wire = Wire()
    call = wire.call()
    assert wire.call() is None
    call.finish(b"1")
    assert wire.call() is not None


def test_null_is_never_in_flight():
    """W-ID."""
    wire = Wire()
    first, second = wire.call(b"null"), wire.call(b"null")
    first.finish(b"1")
    second.finish(b"2")
    assert len(wire.written) == 2


def test_what_cannot_be_read_is_answered_without_id():
    """W-ERRORS: a string in the params that is no UTF-8 is found only when they are decoded."""
    wire = Wire()
    wire.call().fail(ParseError())
    assert wire.written == [b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"parse error"}}\n']


def test_lost_connection_cancels_all_and_writes_nothing():
    """W-GONE."""
    wire = Wire()
    calls = [wire.call(b"1"), wire.call(b"2"), wire.call(b"null")]
    cancelled = []
    for call in calls[1:]:
        call.cancelled = lambda call=call: (cancelled.append(call), call.fail(Cancelled()))
    wire.connection.lost()
    assert cancelled == calls[1:]
    assert wire.written == []


def test_closes_when_the_last_call_has_ended():
    """W-HALFCLOSE."""
    wire = Wire()
    first, second = wire.call(b"1"), wire.call(b"2")
    wire.connection.finishReading()
    first.finish(b"1")
    assert not wire.closed
    second.finish(b"2")
    assert wire.closed == 1


def test_closes_at_once_when_nothing_is_open():
    """W-HALFCLOSE."""
    wire = Wire()
    wire.connection.finishReading()
    assert wire.closed == 1

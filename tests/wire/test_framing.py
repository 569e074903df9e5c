"""Bytes into messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rkllm_twisted.wire import framing
from rkllm_twisted.wire.framing import Framing, LineTooLong, documentsOf

PIECES = st.lists(
    st.sampled_from(
        [b"\n", b"\r\n", b"a", b"{}", b'{"a":[1]}', b"[", b"]", b'"}"', b"\r", b" ", b"\n\n", b"xyz\n", b""]
    )
)


def messages(pieces, limit=1000, ends=False):
    """What arrives, several documents in one line as several messages."""
    taken = Framing(limit)
    lines = [line for piece in pieces for line in taken.receive(piece)]
    if ends:
        lines += taken.end()
    return [message for line in lines for message in documentsOf(line) if message]


@given(PIECES)
def test_any_cut_gives_the_same_messages(pieces):
    """W-SPLIT, W-LINE."""
    whole = b"".join(pieces)
    expected = messages([whole], ends=True)
    assert messages(pieces, ends=True) == expected
    assert messages([whole[i : i + 1] for i in range(len(whole))], ends=True) == expected


def test_line_endings_and_empty_lines():
    """W-LINE."""
    assert messages([b"one\r\ntwo\n\n\r\nthree\nrest"]) == [b"one", b"two", b"three"]


def test_end_of_the_stream_ends_a_message():
    taken = Framing(10)
    assert list(taken.receive(b"rest")) == []
    assert list(taken.end()) == [b"rest"]


@pytest.mark.parametrize("pieces", [[b"ok\n123456\n"], [b"ok\n", b"123", b"456"], [b"ok\n12345\r", b"7\n"]])
def test_line_over_the_limit(pieces):
    """W-LIMIT: what came before it is not lost."""
    taken, came = Framing(4), []
    with pytest.raises(LineTooLong):  # noqa: PT012  # which piece raises differs
        for piece in pieces:
            came.extend(taken.receive(piece))
    assert came == [b"ok"]


def test_line_of_just_the_limit():
    """W-LIMIT."""
    assert messages([b"1234\r\n1234\n"], limit=4) == [b"1234", b"1234"]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([b'{"a":1}'], [b'{"a":1}']),
        ([b"[1]"], [b"[1]"]),
        ([b'{"a":{}', b"}"], [b'{"a":{}}']),
        ([b'{"a":"}', b'"}'], [b'{"a":"}"}']),
        ([b'{"a":1}{"b":2} [3]'], [b'{"a":1}', b'{"b":2}', b"[3]"]),
        ([b'{"a":1}{"b"', b':2}\n{"c":3}'], [b'{"a":1}', b'{"b":2}', b'{"c":3}']),
        ([b'{"a":1}', b"\n", b"5\n"], [b'{"a":1}', b"5"]),
        ([b'{"a":1} x\n'], [b'{"a":1}', b"x"]),
        ([b'{"a":"\xff"}'], [b'{"a":"\xff"}']),
        ([b"5", b"}"], []),
        ([b'{"a":%b}{}' % (b"9" * 5000)], [b'{"a":%b}' % (b"9" * 5000), b"{}"]),
    ],
)
def test_messages_without_a_line_feed(pieces, expected):
    """W-BARE."""
    assert messages(pieces, limit=20_000) == expected


def test_long_messages_need_their_line_feed():
    """W-BARE: above 64 KiB, or after 32 tries, only LF ends a message."""
    long = b'{"a":"' + b"x" * 65536 + b'"}'
    assert messages([long], limit=100_000) == []
    assert messages([long, b"\n"], limit=100_000) == [long]
    nested = [b'{"a":[', *[b"{},{}"] * 32, b"{}]}"]
    assert messages(nested) == []
    assert messages([*nested, b"\n{}"]) == [b"".join(nested), b"{}"]


# A line of 16 MiB, and in single bytes one of 1 MiB: the count is the same for each byte, the test is not as long.
@pytest.mark.parametrize(("size", "length"), [(1, 2**20), (4096, 2**24), (65536, 2**24)])
def test_cost_is_linear_in_the_bytes(size, length, monkeypatch):
    """W-SPLIT: counted in bytes that are searched, and in bytes that are tried as a message."""
    tried = []
    monkeypatch.setattr(framing, "documentsOf", lambda line: (tried.append(len(line)), documentsOf(line))[1])
    line = b'{"a":"' + b"]" * (length - 8) + b'"}'
    taken = Framing(len(line))
    searched = 0
    for start in range(0, len(line), size):
        piece = Counted(line[start : start + size])
        assert list(taken.receive(piece)) == []
        searched += piece.searched
    assert list(taken.receive(b"\n")) == [line]
    assert searched == len(line)
    assert sum(tried) <= 32 * 65536


class Counted(bytes):
    """Bytes that count how many of them are searched for line feeds."""

    searched = 0

    def split(self, *separator):
        self.searched += len(self)
        return super().split(*separator)

"""Bytes into messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rkllm_twisted.wire.framing import Framing, LineTooLong

PIECES = st.lists(st.sampled_from([b"\n", b"\r\n", b"a", b"{}", b"\r", b"\n\n", b"xyz\n", b""]))


def messages(pieces, limit=1000):
    framing = Framing(limit)
    return [message for piece in pieces for message in framing.receive(piece)]


@given(PIECES)
def test_any_cut_gives_the_same_messages(pieces):
    """W-SPLIT, W-LINE."""
    whole = b"".join(pieces)
    assert messages(pieces) == messages([whole]) == messages([whole[i : i + 1] for i in range(len(whole))])


def test_line_endings_and_empty_lines():
    """W-LINE."""
    assert messages([b"one\r\ntwo\n\n\r\nthree\nrest"]) == [b"one", b"two", b"three"]


def test_end_of_the_stream_ends_a_message():
    framing = Framing(10)
    assert list(framing.receive(b"rest")) == []
    assert list(framing.end()) == [b"rest"]


@pytest.mark.parametrize("pieces", [[b"ok\n123456\n"], [b"ok\n", b"123", b"456"], [b"ok\n12345\r", b"7\n"]])
def test_line_over_the_limit(pieces):
    """W-LIMIT: what came before it is not lost."""
    framing, came = Framing(4), []
    with pytest.raises(LineTooLong):  # noqa: PT012  # which piece raises differs
        for piece in pieces:
            came.extend(framing.receive(piece))
    assert came == [b"ok"]


def test_line_of_just_the_limit():
    """W-LIMIT."""
    assert messages([b"1234\r\n1234\n"], limit=4) == [b"1234", b"1234"]

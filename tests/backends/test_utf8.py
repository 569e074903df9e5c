"""Bytes of tokens into whole characters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rkllm_twisted.backends.utf8 import WholeCharacters


def joined(pieces):
    characters = WholeCharacters()
    return [*(characters.add(piece) for piece in pieces), characters.end()]


@pytest.mark.parametrize(
    ("pieces", "texts"),
    [
        ([b"a", b"b"], ["a", "b", None]),
        ([b"\xf0", b"\x9f", b"\xa6", b"\x8a!"], [None, None, None, "🦊!", None]),
        ([b"a\xc3", b"\xa9"], ["a", "é", None]),
        ([b"a\xc3"], ["a", "\ufffd"]),
        ([b"\xc3", b"a"], [None, "\ufffda", None]),
        ([b"\xff"], ["\ufffd", None]),
        ([b""], ["", None]),
        ([b"\xc3", b""], [None, None, "\ufffd"]),
    ],
)
def test_texts(pieces, texts):
    """W-UTF8."""
    assert joined(pieces) == texts


@given(st.text(), st.lists(st.integers(1, 3)))
def test_nothing_is_lost(text, cuts):
    """W-UTF8: whatever the bytes of a token are."""
    data, pieces = text.encode(), []
    for cut in cuts:
        pieces.append(data[:cut])
        data = data[cut:]
    assert "".join(piece or "" for piece in joined([*pieces, data])) == text

"""Lines into requests, and answers into lines, where a transcript cannot show it."""

import pytest

from rkllm_twisted.errors import Busy, Cancelled
from rkllm_twisted.wire.messages import Refused, errorLine, idKey, parse


@pytest.mark.parametrize("id", [b"1.50", b"1e3", b"-1", b"9007199254740993", b'"\\u0061"', b'""', b"1E400", b"null"])
def test_id_is_kept_to_the_letter(id):
    """W-ID."""
    assert parse(b'{"jsonrpc":"2.0", "id" : %b ,"method":"m"}' % id).id == id


def test_version_may_be_escaped():
    """W-REQUEST: it is the string that counts."""
    assert parse(b'{"jsonrpc":"2\\u002e0","method":"m"}').method == "m"


@pytest.mark.parametrize("version", [b"2.0", b"1e400", b'"2"', b"null", b'["2.0"]'])
def test_other_versions(version):
    """W-REQUEST."""
    with pytest.raises(Refused) as refused:
        parse(b'{"jsonrpc":%b,"method":"m","id":7}' % version)
    assert (refused.value.error.code, refused.value.id) == (-32600, b"7")


def test_notification_has_no_id():
    """W-NOTIFY."""
    assert parse(b'{"jsonrpc":"2.0","method":"m"}').id is None


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","method":"\xff"}',
        b'{"jsonrpc":"2.0","method":"m","params":["\xc3("]}',
        b'{"jsonrpc":"2.0","method":"m","params":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"jsonrpc":"2.0","method":"m","params":[NaN]}',
        b'{"jsonrpc":"2.0","method":"m"} x',
    ],
    ids=["method not UTF-8", "params not UTF-8", "deep", "NaN", "two"],
)
def test_what_is_not_json(line):
    """W-ERRORS."""
    with pytest.raises(Refused) as refused:
        parse(line)
    assert (refused.value.error.code, refused.value.id) == (-32700, b"null")


def test_ids_that_are_the_same_string():
    """W-ID."""
    assert idKey(b'"a"') == idKey(b'"\\u0061"') != idKey(b'"A"')
    assert idKey(b'"1"') != idKey(b"1")


def test_data_of_an_error():
    """W-CODES: server errors say whether to try again, others have data only if their row names some."""
    assert errorLine(b"1", Busy("full", queue_length=3)) == (
        b'{"jsonrpc":"2.0","id":1,"error":{"code":-32001,"message":"busy: full",'
        b'"data":{"retryable":true,"queue_length":3}}}\n'
    )
    assert errorLine(b"1", Cancelled()) == b'{"jsonrpc":"2.0","id":1,"error":{"code":-32800,"message":"cancelled"}}\n'

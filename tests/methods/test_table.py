"""The way of a call into a method."""

import msgspec
from twisted.internet.defer import Deferred, fail

from rkllm_twisted.errors import InvalidParams, ModelNotInitialized
from rkllm_twisted.methods.table import Method, MethodTable, NoParams
from rkllm_twisted.wire.connection import Connection


class One(msgspec.Struct):
    param: int


def answerOf(carryOut, params=b"[]", kind=NoParams):
    """What a table with this one method answers."""
    written = []
    [call] = Connection(written.append, lambda: None).receive(
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":%b}' % params
    )
    MethodTable([Method("m", kind, carryOut)]).dispatch(call)
    return [msgspec.json.decode(line) for line in written]


def test_defect_is_logged_and_shown_without_details(flushErrors):
    """W-ERRORS: -32603."""
    [answer] = answerOf(lambda call, params: 1 / 0)
    assert answer["error"] == {"code": -32603, "message": "internal error"}
    assert len(flushErrors(ZeroDivisionError)) == 1


def test_defect_in_a_deferred(flushErrors):
    """W-ERRORS: -32603."""
    [answer] = answerOf(lambda call, params: fail(ZeroDivisionError()))
    assert answer["error"]["code"] == -32603
    assert len(flushErrors(ZeroDivisionError)) == 1


def test_answer_comes_when_the_deferred_fires():
    later = Deferred()
    assert answerOf(lambda call, params: later) == []
    [answer] = answerOf(lambda call, params: fail(ModelNotInitialized()))
    assert answer["error"]["code"] == -32000


def test_wrong_value_found_later_is_placed_too():
    """W-ERRORS: whoever finds it knows the parameter by name only."""
    [now] = answerOf(raising, b"[5]", One)
    [later] = answerOf(lambda call, params: fail(InvalidParams("$.param: too much")), b"[null,5]", One)
    assert now["error"]["message"] == "invalid params: $.params[0]: too much"
    assert later["error"]["message"] == "invalid params: $.params[1]: too much"


def raising(call, params):
    raise InvalidParams("$.param: too much")

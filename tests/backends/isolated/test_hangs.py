"""Every hang of a child, in each step of a call: it is killed, and a new child serves the next."""

import os
import signal

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from rkllm_twisted.backends.isolated import process
from rkllm_twisted.errors import BackendLost
from tests.backends.isolated.children import SHORT, errorOf, isAlive, say, start, stateOf

asynchronous = pytest_twisted.ensureDeferred

HANGS = ("!pause", "!hold", "!wait")
"""In C, in C with all of Python, and in Python."""


@asynchronous
async def test_hang_in_prefill(children):
    model = await children.load(prefill=SHORT)
    for order in HANGS:
        error, receiver = await errorOf(model, order)
        assert error.data == {"hung": "prefill took too long", "restarting": True}
        assert not receiver.results
    children.forgive(len(HANGS))


@asynchronous
async def test_hang_in_decode(children):
    model = await children.load(token=SHORT)
    for order in HANGS:
        error, receiver = await errorOf(model, f"one {order}")
        assert error.data == {"hung": "decode took too long", "restarting": True}
        assert receiver.text == "one"
    children.forgive(len(HANGS))


@asynchronous
async def test_hang_that_cannot_be_killed(children, monkeypatch, logged):
    """Inside of a driver a process lives on: everybody is told, and the next child does not wait for it."""
    monkeypatch.setattr(process, "STUCK", SHORT)
    model = await children.load(token=SHORT)
    child, pid = model._kept._child, model._kept._child.pid
    ended = Deferred()
    processEnded = child.processEnded
    monkeypatch.setattr(child, "processEnded", lambda reason: (processEnded(reason), ended.callback(None)))
    monkeypatch.setattr(child.transport, "signalProcess", lambda signal: None)
    error, receiver = await errorOf(model, "one !pause")
    assert error.data == {"hung": "decode took too long", "restarting": True}
    assert receiver.text == "one"
    assert (await stateOf(model))["pid"] != pid
    assert isAlive(pid)
    os.kill(pid, signal.SIGKILL)
    await ended
    assert await say(model, "one two") == ["one", "two"]
    assert [event for event in logged if "cannot be killed: it is left" in event.get("log_format", "")]
    children.forgive()


@asynchronous
async def test_hang_after_abort(children):
    """A runtime that does not hear, and one whose abort does not return."""
    model = await children.load("!abort:with=/nowhere", abort=SHORT)
    for order in ("!pause", "!hold"):
        receiver, generation = start(model, f"!deaf one {order}")
        await receiver.firstResult
        generation.abort()
        with pytest.raises(BackendLost) as lost:
            await receiver.ended
        assert lost.value.data == {"hung": "abort took too long", "restarting": True}
    children.forgive(2)
    for order in ("!abort:pause", "!abort:hold", "!abort:wait"):
        model = await children.load(order, abort=SHORT)
        receiver, generation = start(model, "one !hear")
        await receiver.firstResult
        generation.abort()
        with pytest.raises(BackendLost) as lost:
            await receiver.ended
        assert lost.value.data["hung"] == "abort took too long"
        assert await say(model, "two") == ["two"]
        children.forgive(1)


@asynchronous
async def test_abort_that_is_not_heard_in_prefill(children):
    """There the limit of the prefill counts, as the NPU's runtime is deaf in it."""
    model = await children.load(prefill=4 * SHORT, abort=0.01)
    receiver, generation = start(model, "!deaf !pause")
    generation.abort()
    with pytest.raises(BackendLost) as lost:
        await receiver.ended
    assert lost.value.data["hung"] == "prefill took too long"
    children.forgive(1)


@asynchronous
async def test_deaf_prefill_that_ends_in_time_is_an_abort(children):
    model = await children.load(abort=0.01)
    receiver, generation = start(model, "!deaf !many=1000 !deaf")
    generation.abort()
    await receiver.ended
    assert (receiver.reason, receiver.results) == ("abort", [])
    assert model.epoch == 0


@asynchronous
async def test_hang_in_init(children):
    for order in HANGS:
        with pytest.raises(BackendLost) as lost:
            await children.load(order, init=2 * SHORT)
        assert lost.value.data == {"hung": f"init took more than {2 * SHORT:g} s", "restarting": False}


@asynchronous
async def test_hang_in_a_function(children):
    model = await children.load(init=4)
    with pytest.raises(BackendLost) as lost:
        await model.setChatTemplate("!pause", "", "")
    assert lost.value.data == {"hung": "setChatTemplate took more than 4 s", "restarting": True}
    children.forgive(1)


@asynchronous
async def test_hang_in_destroy(children):
    for order in HANGS:
        model = await children.load(f"!destroy:{order[1:]}", abort=SHORT)
        pid = (await stateOf(model))["pid"]
        await model.destroy()
        assert not isAlive(pid)

"""Every death of a child: the running call has its one ending, and a new child serves the next."""

import os
import signal

import pytest
import pytest_twisted

from rkllm_twisted.errors import BackendLost
from rkllm_twisted.values import RKLLMLoraAdapter
from tests.backends.isolated.children import childGone, errorOf, isAlive, say, start, stateOf

asynchronous = pytest_twisted.ensureDeferred

ENDS = {
    "!segfault": {"signal": "SIGSEGV"},
    "!assert": {"signal": "SIGABRT"},
    "!signal=ILL": {"signal": "SIGILL"},
    "!signal=BUS": {"signal": "SIGBUS"},
    "!signal=KILL": {"signal": "SIGKILL"},
    "!signal=40": {"signal": "SIG40"},
    "!exit=0": {"exit_code": 0},
    "!exit=7": {"exit_code": 7},
}


@asynchronous
async def test_death_in_a_run(children):
    """Before the first token and after some, by any signal and exit code."""
    model = await children.load()
    deaths = 0
    for order, data in ENDS.items():
        before = (await stateOf(model))["pid"]
        said = ["one", "two"] * (deaths % 2)
        error, receiver = await errorOf(model, " ".join([*said, order, "three"]))
        deaths += 1
        assert isinstance(error, BackendLost)
        assert error.data == {**data, "restarting": True}
        assert next(iter(data.values())) in (0, 7) or next(iter(data.values())) in str(error)
        assert [result.text for result in receiver.results] == said
        assert model.epoch == deaths
        assert not model.isRunning()
        assert (await stateOf(model))["pid"] != before
        assert not isAlive(before)
    children.forgive(deaths)


@asynchronous
async def test_next_run_may_start_in_the_ending_of_a_lost_one(children):
    """As the scheduler does it: the turn of the next begins where that of the last ends."""
    model = await children.load()
    first, _ = start(model, "one !signal=SEGV")
    second, _ = await first.ended.addErrback(lambda failure: start(model, "two"))
    await second.ended
    assert second.text == "two"
    children.forgive(1)


@asynchronous
async def test_epoch_has_changed_in_the_ending_of_a_lost_run(children):
    model = await children.load()
    lost, _ = start(model, "!signal=SEGV")
    assert model.epoch == 0
    assert await lost.ended.addErrback(lambda failure: model.epoch) == 1
    await say(model, "one")
    assert model.epoch == 1
    children.forgive(1)


@asynchronous
async def test_death_in_init(children):
    """There is no model then, and no second try."""
    for order, data in {"!segfault": {"signal": "SIGSEGV"}, "!exit=3": {"exit_code": 3}}.items():
        with pytest.raises(BackendLost) as lost:
            await children.load(order)
        assert lost.value.data == {**data, "restarting": False}
    model = await children.load()
    assert await say(model, "one") == ["one"]


@asynchronous
async def test_death_in_a_function(children):
    model = await children.load()
    for name, arguments in {
        "setChatTemplate": ("!signal=ILL", "", ""),
        "setFunctionTools": ("!signal=ILL", "[]", ""),
        "loadPromptCache": ("!signal=ILL",),
        "loadLora": (RKLLMLoraAdapter(lora_adapter_path="!signal=ILL", lora_adapter_name="name"),),
    }.items():
        with pytest.raises(BackendLost) as lost:
            await getattr(model, name)(*arguments)
        assert lost.value.data == {"signal": "SIGILL", "restarting": True}
    assert set(await stateOf(model)) == {"pid"}, "what has failed is not done again"
    children.forgive(4)


@asynchronous
async def test_death_when_idle(children):
    model = await children.load()
    before = (await stateOf(model))["pid"]
    ended = childGone(model)
    os.kill(before, signal.SIGKILL)
    await ended
    assert (await stateOf(model))["pid"] != before
    assert model.epoch == 1
    children.forgive(1)


@asynchronous
async def test_death_in_destroy(children):
    """The model is gone all the same, and no new child is started for it."""
    for order in ("!destroy:signal=SEGV", "!destroy:exit=1", "!destroy:raise=ValueError"):
        model = await children.load(order)
        spawned = []
        original = model._kept._spawn
        model._kept._spawn = lambda ended: spawned.append(1) or original(ended)  # noqa: B023
        await model.destroy()
        assert not spawned


@asynchronous
async def test_process_that_leaves_another_with_its_pipes(children, tmp_path):
    """Twisted tells of the end of a process when its pipes are closed, which may be never."""
    model = await children.load()
    error, _ = await errorOf(model, f"!orphan={tmp_path}/pid one !signal=SEGV")
    assert error.data["signal"] == "SIGSEGV"
    assert await say(model, "two") == ["two"]
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    children.forgive(1)


@asynchronous
async def test_call_after_the_pipe_has_closed_and_before_the_end_is_known(children):
    """The pipes of a dying process close one after the other."""
    model = await children.load()
    child = model._kept._child
    receivers = []

    def closed(fd):
        if fd == 3:
            receivers.append(start(model, "one")[0])

    child.childConnectionLost = closed
    ended = childGone(model)
    child.kill()
    await ended
    (receiver,) = receivers
    with pytest.raises(BackendLost):
        await receiver.ended
    assert await say(model, "two") == ["two"]
    children.forgive(1)

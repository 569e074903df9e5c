"""Every fault of a runtime: the running call has its one ending, and a new child serves the next."""

import os
import signal

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from rkllm_twisted.backends.isolated import process
from rkllm_twisted.errors import (
    BackendLost,
    InternalError,
    InvalidParams,
    ModelLoadFailed,
    ModelNotInitialized,
    NotSupported,
    PromptTooLong,
    ResultTooLarge,
    RKLLMError,
    RuntimeCallFailed,
)
from rkllm_twisted.testing.receivers import RecordingReceiver
from rkllm_twisted.values import Delivery, RKLLMInferParam, RKLLMInput, RKLLMLoraAdapter
from tests.backends.isolated.children import SHORT, Undecoded, childGone, errorOf, isAlive, say, start, stateOf

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
HANGS = ("!pause", "!hold", "!wait")


# Deaths


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


# Hangs


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


# What a runtime reports and raises


@asynchronous
async def test_faults_that_end_no_process(children):
    model = await children.load()
    pid = (await stateOf(model))["pid"]
    for prompt, kind in {
        "one !nofinish": RuntimeCallFailed,
        "one !error": RuntimeCallFailed,
        "one !raise=RuntimeCallFailed": RuntimeCallFailed,
        "one !raise=ValueError": InternalError,
        "one !raise=OwnError": InternalError,
        "one !raise=SystemExit": InternalError,
        "one !raise=KeyboardInterrupt": InternalError,
        "one !raise=NotSupported": NotSupported,
        "one !raise=InvalidParams": InvalidParams,
        "one !raise=PromptTooLong": PromptTooLong,
        "one !return": InternalError,
        "one !say=surrogate": InternalError,
        "one !raise=Unspeakable": RKLLMError,
    }.items():
        error, receiver = await errorOf(model, prompt)
        assert isinstance(error, kind), (prompt, error)
        assert receiver.text == "one"
    assert (await errorOf(model, "!raise=PromptTooLong"))[0].data == {"tokens": 9, "limit": 8}
    assert (await errorOf(model, "!raise=NotSupported"))[0].data == {"needs": "more than this"}
    assert (await stateOf(model))["pid"] == pid
    assert model.epoch == 0


@asynchronous
async def test_what_init_raises(children):
    for order, kind in (("ModelLoadFailed", ModelLoadFailed), ("NotSupported", NotSupported), ("OwnError", RKLLMError)):
        with pytest.raises(kind):
            await children.load(f"!raise={order}")
    with pytest.raises(ModelLoadFailed) as raised:
        await children.load("!raise=ModelLoadFailed")
    assert raised.value.data == {"reason": "this file is none"}
    for defect in ("ValueError", "SystemExit"):
        with pytest.raises(InternalError):
            await children.load(f"!raise={defect}")


@asynchronous
async def test_what_a_function_raises(children):
    model = await children.load()
    with pytest.raises(InvalidParams):
        await model.setChatTemplate("!raise=InvalidParams", "", "")
    with pytest.raises(InternalError):
        await model.setChatTemplate("!raise=SystemExit", "", "")
    assert set(await stateOf(model)) == {"pid"}


@asynchronous
async def test_abort_that_raises(children):
    """It is called by the thread that reads: that must read on."""
    model = await children.load("!abort:raise=ValueError", abort=SHORT)
    receiver, generation = start(model, "one !hear")
    await receiver.firstResult
    generation.abort()
    with pytest.raises(BackendLost) as lost:
        await receiver.ended
    assert lost.value.data["hung"] == "abort took too long"
    children.forgive(1)


@asynchronous
async def test_abort_is_forgotten_by_the_next_run(children):
    model = await children.load()
    receiver, generation = start(model, "one !hear")
    await receiver.firstResult
    generation.abort()
    await receiver.ended
    assert receiver.reason == "abort"
    assert await say(model, "two") == ["two"]
    assert model.epoch == 0


@asynchronous
async def test_nothing_is_called_after_destroy(children):
    """In C it would use what is freed."""
    model = await children.load("!abort:signal=SEGV")
    child = model._kept._child
    await child.call("destroy")
    child.abort()
    with pytest.raises(ModelNotInitialized):
        await child.call("getKVCacheSize")


@asynchronous
async def test_results_after_the_end_are_dropped(children):
    """Runtime 1.1 has callbacks after an abort."""
    model = await children.load()
    receiver, _ = start(model, "one !late")
    await receiver.ended
    assert await model.getKVCacheSize() == [7]
    assert await say(model, "two") == ["two"]
    assert model.epoch == 0


@asynchronous
async def test_batch(children):
    model = await children.load()
    receiver = RecordingReceiver()
    inputs = [RKLLMInput(prompt_input=text) for text in ("one", "two")]
    model.runBatch(inputs, RKLLMInferParam(), receiver, Delivery())
    await receiver.ended
    assert [(result.batch_index, result.text) for result in receiver.results] == [(0, "one"), (1, "two")]


# Results


@asynchronous
async def test_result_that_is_too_large(children):
    """Whatever it is delivered as, it is refused where it was born, and the run is aborted."""
    model = await children.load()
    for delivery in (
        {"stream": "lines", "tensors": "json"},
        {"stream": "lines", "tensors": "base64"},
        {"stream": "whole", "tensors": "json"},
        {"stream": "whole", "tensors": "base64"},
    ):
        error, receiver = await errorOf(model, "!tensor=400000 !hear", maxReply=100000, **delivery)
        assert isinstance(error, ResultTooLarge), (delivery, error)
        assert error.data["limit"] == 100000
        assert not receiver.results
        fits, _ = start(model, "!tensor=16000", Undecoded(), maxReply=100000, **delivery)
        await fits.ended
        assert len(fits.results) == 1
    assert model.epoch == 0


@asynchronous
async def test_large_result_whole(children):
    """Of several frames of the pipe."""
    model = await children.load()
    receiver, _ = start(model, "!tensor=16000000", stream="whole")
    await receiver.ended
    assert receiver.results[0].last_hidden_layer.hidden_states == bytes(16000000)


@asynchronous
async def test_garbage_on_the_pipe_of_results(children, flushErrors):
    """The child's memory may be damaged: it is killed, whatever it says."""
    model = await children.load()
    for kind in ("random", "much", "zeros", "endless", "stranger", "result", "empty"):
        error, _ = await errorOf(model, f"!garbage={kind} !pause")
        assert isinstance(error, BackendLost)
        assert error.data["restarting"]
        assert "cannot be read" in str(error)
        assert await say(model, "two") == ["two"]
        children.forgive(1)
        assert len(flushErrors(ValueError, KeyError, IndexError)) == 1, "it is told once, however much comes"


@asynchronous
async def test_garbage_for_the_end_of_a_run(children, flushErrors):
    model = await children.load()
    ended = childGone(model)
    error, _ = await errorOf(model, "!garbage=answer !pause")
    assert isinstance(error, InternalError)
    await ended
    assert await say(model, "two") == ["two"]
    children.forgive(1)
    assert len(flushErrors(ValueError)) == 1


@asynchronous
async def test_text_that_is_none(children, flushErrors):
    """In the other streams it is not spelled in the child."""
    model = await children.load()
    for what in ("bytes", "number", "surrogate"):
        error, _ = await errorOf(model, f"one !say={what}", stream="whole")
        assert isinstance(error, RKLLMError)
        assert await say(model, "two") == ["two"]
    children.forgive()
    flushErrors(Exception)


@asynchronous
async def test_pipe_of_results_that_is_closed(children):
    """The child ends by itself: it could tell nobody anything any more."""
    model = await children.load()
    error, _ = await errorOf(model, "!close=4 one")
    assert error.data == {"exit_code": 0, "restarting": True}
    children.forgive(1)


@asynchronous
async def test_pipe_of_requests_that_is_closed(children):
    """The child has been reading already, so it may serve one more call before it ends."""
    model = await children.load(prefill=SHORT)
    await say(model, "!close=3 one")
    gone = childGone(model)
    try:
        receiver, _ = start(model, "two")
        await receiver.ended
    except BackendLost:
        pass
    await gone
    assert await say(model, "three") == ["three"]
    children.forgive()

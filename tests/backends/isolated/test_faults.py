"""Faults of a runtime that are no death and no hang: what it raises, and results that are none."""

import pytest
import pytest_twisted

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
from rkllm_twisted.values import Delivery, RKLLMInferParam, RKLLMInput
from tests.backends.isolated.children import SHORT, Undecoded, childGone, errorOf, say, start, stateOf

asynchronous = pytest_twisted.ensureDeferred


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

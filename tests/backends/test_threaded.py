"""A blocking runtime in its thread: what the contract suite cannot show, as it needs a runtime with faults."""

import threading

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from rkllm_twisted.backends.threaded import ThreadedBackend
from rkllm_twisted.errors import PromptTooLong, RuntimeCallFailed
from rkllm_twisted.testing.receivers import RecordingReceiver
from rkllm_twisted.testing.runtimes import ScriptedRuntime
from rkllm_twisted.values import CallState, Delivery, RKLLMInferParam, RKLLMInput, RKLLMParam, RKLLMResult

PARAM = RKLLMParam(model_path="any", max_new_tokens=-1)


async def load(runtime):
    return await ThreadedBackend(runtime, reactor).init(PARAM)


def start(model, prompt="one two"):
    receiver = RecordingReceiver()
    return receiver, model.run(RKLLMInput(prompt_input=prompt), RKLLMInferParam(), receiver, Delivery())


async def failureOf(runtime):
    """What the receiver of a run is told, and the results before it."""
    model = await load(runtime)
    receiver, _ = start(model)
    with pytest.raises(Exception) as failed:  # noqa: PT011  # the tests look at it
        await receiver.ended
    await model.destroy()
    return failed.value, receiver


def raising(error):
    def script(input):
        yield "one"
        raise error

    return script


@pytest_twisted.ensureDeferred
async def test_run_that_returns_without_finish_has_failed():
    """Clause 3."""
    error, receiver = await failureOf(ScriptedRuntime(finishes=False))
    assert isinstance(error, RuntimeCallFailed)
    assert receiver.text == "one two"


@pytest_twisted.ensureDeferred
async def test_run_that_reports_an_error_has_failed():
    """Clause 3: also when it finishes afterwards."""
    error, _ = await failureOf(ScriptedRuntime(states=[CallState.RKLLM_RUN_ERROR]))
    assert isinstance(error, RuntimeCallFailed)


@pytest_twisted.ensureDeferred
async def test_what_a_run_raises_is_its_ending():
    """Clause 3."""
    error, receiver = await failureOf(ScriptedRuntime(raising(PromptTooLong(tokens=9, limit=8))))
    assert isinstance(error, PromptTooLong)
    assert receiver.text == "one"


@pytest_twisted.ensureDeferred
async def test_aborted_run_that_fails_as_aborted_runs_do():
    """Clause 2: some runtimes return -1 after an abort, or no FINISH."""
    spoken, aborted = threading.Event(), threading.Event()

    def script(input):
        yield "one"
        spoken.set()
        aborted.wait(10)
        raise RuntimeCallFailed(function="rkllm_run", status=-1)

    model = await load(ScriptedRuntime(script))
    receiver, generation = start(model)
    await deferToThread(spoken.wait, 10)
    generation.abort()
    aborted.set()
    await receiver.ended
    assert receiver.reason == "abort"
    await model.destroy()


@pytest_twisted.ensureDeferred
async def test_every_call_of_a_model_is_in_one_thread():
    """All but abort, which has to come from another."""
    runtime = ScriptedRuntime()
    model = await load(runtime)
    for _ in range(3):
        receiver, _ = start(model)
        await receiver.ended
    await model.destroy()
    calls = runtime.models[0].calls
    assert [name for name, _ in calls] == ["run", "run", "run", "destroy"]
    assert len({thread for _, thread in calls}) == 1
    assert threading.get_ident() not in {thread for _, thread in calls}


@pytest_twisted.ensureDeferred
async def test_results_come_in_batches():
    """A wake-up of the reactor brings all that has come by then."""
    wakeups, spoken = [], threading.Event()

    class Reactor:
        """Counts."""

        def callFromThread(self, function, *args):
            wakeups.append(function.__name__)
            reactor.callFromThread(function, *args)

        def getThreadPool(self):
            return reactor.getThreadPool()

    def script(input):
        yield from ("token " * 1000).split()
        spoken.set()

    model = await ThreadedBackend(ScriptedRuntime(script), Reactor()).init(PARAM)
    receiver, _ = start(model)
    spoken.wait(10)  # the reactor stands still meanwhile
    await receiver.ended
    assert len(receiver.results) == 1000
    assert wakeups.count("_deliver") <= 2  # the tokens, and perhaps the FINISH
    await model.destroy()


@pytest_twisted.ensureDeferred
async def test_callback_from_a_thread_of_the_runtime():
    """Clause: onResult may be called from any thread."""

    class OwnThread(ScriptedRuntime):
        def init(self, param):
            model = super().init(param)
            run = model.run

            def inAnotherThread(input, inferParam, onResult, delivery):
                def report(result, state):
                    thread = threading.Thread(target=onResult, args=(result, state))
                    thread.start()
                    thread.join()

                return run(input, inferParam, report, delivery)

            model.run = inAnotherThread
            return model

    model = await load(OwnThread())
    receiver, _ = start(model)
    await receiver.ended
    assert receiver.text == "one two"
    await model.destroy()


@pytest_twisted.ensureDeferred
async def test_late_callback_is_dropped():
    """A runtime may call back after its run has returned."""
    late = []

    class Late(ScriptedRuntime):
        def init(self, param):
            model = super().init(param)
            run = model.run
            model.run = lambda *args: (late.append(args[2]), run(*args))[1]
            return model

    model = await load(Late())
    receiver, _ = start(model)
    await receiver.ended
    late[0](RKLLMResult(text="late"), CallState.RKLLM_RUN_NORMAL)
    again, _ = start(model)
    await again.ended
    assert receiver.text == "one two"
    await model.destroy()


@pytest_twisted.ensureDeferred
async def test_failed_init_leaves_no_thread():
    before = threading.active_count()

    def fail():
        raise MemoryError("no room for the model")

    with pytest.raises(MemoryError):
        await load(ScriptedRuntime(initialised=fail))
    assert threading.active_count() == before
    model = await load(ScriptedRuntime())
    await model.destroy()
    assert threading.active_count() == before

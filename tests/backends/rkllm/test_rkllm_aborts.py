"""Aborts of runs, the orders that the library gets for them, and what it may do then."""

import threading

import pytest
from twisted.logger import capturedLogs, formatEvent

from rkllm_twisted.backends.rkllm import interrupting
from rkllm_twisted.backends.rkllm.families import FAMILIES
from rkllm_twisted.values import Capability
from tests.backends.rkllm.running import FINISH, NORMAL, Run
from tests.standins import everyFamily, needsCompiler

pytestmark = needsCompiler


@everyFamily
def test_abort_from_the_callback(key, load, library):
    library.script("endless=1;token_ms=1")
    model = load(key, max_new_tokens=-1)
    run = Run(model, onResult=lambda result, state: model.abort() if state is NORMAL else None)
    assert run.reason == "abort"
    assert len(run.results) == 1
    library.script("")
    assert Run(model).reason == "stop"  # prepare() has forgotten it


@everyFamily
def test_abort_before_the_run_does_not_call_the_library(key, load, library):
    model = load(key)
    model.prepare()
    model.abort()
    run = Run(model, prepare=False)
    assert run.reason == "abort"
    assert [state for _, state in run.events] == [FINISH]
    assert not {"rkllm_run", "rkllm_abort"} & set(library.calls())


@everyFamily
@pytest.mark.parametrize("ending", ["finish", "fail", "error", "silent"])
def test_whatever_comes_after_an_abort(key, ending, load, library):
    """Results that still come are dropped; what is returned, and whether there is a FINISH, does not count."""
    library.script(f"endless=1;token_ms=1;after_abort=3;abort_ends={ending}")
    model = load(key, max_new_tokens=-1)
    run = Run(model, onResult=lambda result, state: model.abort() if state is NORMAL else None)
    assert run.reason == "abort"
    assert len(run.results) == 1
    library.script("")
    assert Run(model).text == "one two three"


@everyFamily
def test_abort_with_nothing_running_stays_away_from_the_library(key, load, library):
    """It might hit the next run; the stand-in says that it does."""
    library.script("stale_abort=hits")
    model = load(key)
    model.abort()
    assert Run(model).reason == "stop"
    model.abort()
    assert Run(model).reason == "stop"
    assert "rkllm_abort" not in library.calls()
    model.destroy()
    model.abort()
    assert "rkllm_abort" not in library.calls()


@everyFamily
def test_cache_is_cleared_after_an_abort(key, load, library):
    """What an aborted run leaves there is not known."""
    library.script("endless=1;token_ms=1")
    model = load(key, max_new_tokens=-1)
    Run(model, onResult=lambda result, state: model.abort())
    canClear = Capability.CLEAR_KV_CACHE in FAMILIES[key].capabilities
    assert library.calls().count("rkllm_clear_kv_cache") == canClear
    if canClear:
        Run(model, keep_history=1, onResult=lambda result, state: model.abort())
        assert library.calls().count("rkllm_clear_kv_cache") == 1  # the turns before it are the client's


def test_cache_that_cannot_be_cleared_after_an_abort_is_logged(load, library):
    library.script("endless=1;token_ms=1;fail=clear_kv_cache")
    model = load("1.3", max_new_tokens=-1)
    with capturedLogs() as logged:
        assert Run(model, onResult=lambda result, state: model.abort()).reason == "abort"
    assert ["could not be cleared" in formatEvent(event) for event in logged] == [True]


def test_order_is_given_until_the_run_is_over(monkeypatch):
    """One that comes before the library has begun the run is lost; and none comes after the run."""
    monkeypatch.setattr(interrupting, "FIRST_WAIT", 0.001)
    given, third = [], threading.Event()

    def abort():
        given.append(threading.current_thread())
        if len(given) == 3:
            third.set()

    interruption = interrupting.Interruption(abort)
    interruption.order()
    interruption.order()
    assert third.wait(30)
    interruption.close()
    count = len(given)
    interruption.order()
    assert not given[0].is_alive()
    assert len(given) == count
    assert set(given) == {given[0]} != {threading.main_thread()}


def test_close_waits_for_an_order_that_is_being_given():
    begun, goOn, done = threading.Event(), threading.Event(), []

    def abort():
        begun.set()
        goOn.wait(30)
        done.append(True)

    interruption = interrupting.Interruption(abort)
    interruption.order()
    begun.wait(30)
    closing = threading.Thread(target=interruption.close)
    closing.start()
    assert not done
    goOn.set()
    closing.join(30)
    assert done == [True]

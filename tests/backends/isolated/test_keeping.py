"""A child that is kept, with a clock and children that only pretend: crash loops, replays, memory."""

import os

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from rkllm_twisted.backends.isolated import keeping
from rkllm_twisted.backends.isolated.keeping import KeptChild, residentBytes
from rkllm_twisted.backends.isolated.limits import Limits
from rkllm_twisted.backends.isolated.process import again
from rkllm_twisted.errors import BackendLost, InvalidParams, ModelLoadFailed
from rkllm_twisted.values import RKLLMParam

asynchronous = pytest_twisted.ensureDeferred
PARAM = RKLLMParam(model_path="model")


class Pretender:
    """Answers when it is told, and ends when it is killed or told."""

    def __init__(self, ended, number):
        self.pid = number
        self.startedAt = 0.0
        self.lost = None
        self.hung = None
        self.names = []
        self.gone = Deferred()
        self._ended = ended
        self._calls = []

    @property
    def isIdle(self):
        return not self._calls

    def call(self, name, *arguments):
        done = Deferred()
        self.names.append((name, *arguments))
        self._calls.append(done)
        return done

    def answer(self, answer=b""):
        self._calls.pop(0).callback(answer)

    def refuse(self, error):
        self._calls.pop(0).errback(Failure(error))

    def hang(self, what):
        self.hung = what
        self.end(BackendLost("hung", hung=what))

    def kill(self):
        if self.lost is None:
            self.end(BackendLost("killed", signal="SIGKILL"))

    def end(self, lost):
        self.lost = lost
        calls, self._calls = self._calls, []
        self._ended(lost)
        for done in calls:
            done.errback(Failure(again(lost)))
        self.gone.callback(None)


class Keeping:
    """A kept child and all its pretenders."""

    def __init__(self, **limits):
        self.clock = Clock()
        self.children = []
        self.refused = None
        self.kept = KeptChild(self.clock, self._spawn, Limits(**limits))

    def _spawn(self, ended):
        if self.refused is not None:
            raise self.refused
        self.children.append(Pretender(ended, len(self.children) + 1))
        return self.children[-1]

    @property
    def child(self):
        return self.children[-1]

    def load(self):
        started = self.kept.start(PARAM)
        self.child.answer()
        return started

    def crash(self):
        self.child.end(BackendLost("crashed", signal="SIGSEGV"))


@pytest.fixture
def forgive(flushErrors):
    """Takes the logged errors away at the end."""
    yield
    flushErrors(RuntimeError)


def outcome(deferred):
    """What a Deferred has fired with."""
    found = []
    deferred.addBoth(found.append)
    assert found, "it has not fired"
    return found[0].value if isinstance(found[0], Failure) else found[0]


# Crash loops


def test_so_many_deaths_in_so_much_time_are_a_loop(flushErrors):
    keeping = Keeping(crashes=3, crashSeconds=60)
    keeping.load()
    for seconds in (0, 30, 29.9):
        keeping.clock.advance(seconds)
        called = keeping.kept.call("getKVCacheSize")
        keeping.crash()
        lost = outcome(called)
        if not keeping.child.lost:
            assert lost.data == {"signal": "SIGSEGV", "restarting": True}
            keeping.child.answer()
    assert len(keeping.children) == 3
    assert lost.data == {"signal": "SIGSEGV", "restarting": False}
    errors = [str(failure.value) for failure in flushErrors(RuntimeError)]
    assert errors == ["the model is lost: {reason}"] * 3 + ["{times}: it is not started again before rkllm.init"]
    waiting = keeping.kept.ready()
    assert not waiting.called, "nothing fails from inside the call"
    keeping.clock.advance(0)
    lost = outcome(waiting)
    assert "3 times within 60 s; load the model again with rkllm.init" in lost.detail
    assert lost.data == {"restarting": False}


def test_deaths_further_apart_are_none(forgive):
    keeping = Keeping(crashes=3, crashSeconds=60)
    keeping.load()
    for _ in range(20):
        keeping.clock.advance(30.1)
        keeping.crash()
        keeping.child.answer()
    assert len(keeping.children) == 21
    assert outcome(keeping.kept.ready()) is keeping.child


def test_deaths_before_it_is_ready_are_a_loop_however_long_each_takes(forgive):
    """A model that takes 20 s to load and dies at the end of it would be loaded for ever."""
    keeping = Keeping(crashes=3, crashSeconds=60)
    keeping.load()
    keeping.crash()
    waiting = keeping.kept.ready()
    for _ in range(3):
        keeping.clock.advance(50)
        keeping.crash()
    assert len(keeping.children) == 4
    assert "3 times before the model was ready" in outcome(waiting).detail


def test_losses_of_several_calls_share_nothing(forgive):
    keeping = Keeping()
    keeping.load()
    first, second = keeping.kept.call("getKVCacheSize"), keeping.kept.call("getKVCacheSize")
    keeping.crash()
    outcome(first).data["history_lost"] = True
    assert "history_lost" not in outcome(second).data
    keeping.kept.stop()


def test_process_that_cannot_be_started(forgive):
    keeping = Keeping()
    keeping.refused = OSError(11, "Resource temporarily unavailable")
    assert "no process can be started: Resource" in outcome(keeping.kept.start(PARAM)).detail
    keeping = Keeping()
    keeping.load()
    keeping.refused = OSError(24, "Too many open files")
    called = keeping.kept.call("getKVCacheSize")
    keeping.crash()
    assert outcome(called).data["restarting"] is False
    waiting = keeping.kept.ready()
    keeping.clock.advance(0)
    assert "Too many open files" in outcome(waiting).detail


# Replays


def test_what_has_been_done_is_done_again_in_order(forgive):
    keeping = Keeping()
    keeping.load()
    for name, *arguments in (("setChatTemplate", "s", "a", "b"), ("loadLora", "x"), ("getKVCacheSize",)):
        keeping.kept.call(name, *arguments)
        keeping.child.answer()
    refused = keeping.kept.call("loadLora", "y")
    keeping.child.refuse(InvalidParams("no"))
    assert isinstance(outcome(refused), InvalidParams)
    keeping.crash()
    waiting = keeping.kept.ready()
    for _ in range(3):
        assert not waiting.called
        keeping.child.answer()
    assert outcome(waiting) is keeping.child
    assert keeping.child.names == [("init", PARAM), ("setChatTemplate", "s", "a", "b"), ("loadLora", "x")]


def test_function_that_fails_now_is_logged_and_the_model_goes_on(flushErrors):
    keeping = Keeping()
    keeping.load()
    keeping.kept.call("loadLora", "x")
    keeping.child.answer()
    keeping.crash()
    keeping.child.answer()
    keeping.child.refuse(InvalidParams("gone"))
    assert outcome(keeping.kept.ready()) is keeping.child
    assert len(flushErrors(RuntimeError)) == 2


def test_model_that_cannot_be_loaded_again(flushErrors):
    keeping = Keeping()
    keeping.load()
    keeping.crash()
    waiting = keeping.kept.ready()
    keeping.child.refuse(ModelLoadFailed("there is no such file"))
    lost = outcome(waiting)
    assert "cannot be loaded again: model load failed: there is no such file" in str(lost)
    assert lost.data == {"restarting": False}
    assert keeping.child.lost, "a child without a model is of no use"
    assert len(flushErrors(RuntimeError)) == 2


def test_death_during_the_replay_begins_it_anew(forgive):
    keeping = Keeping()
    keeping.load()
    keeping.kept.call("loadLora", "x")
    keeping.child.answer()
    keeping.crash()
    keeping.child.answer()
    keeping.crash()
    assert keeping.kept.epoch == 1, "nobody has used the one in between"
    keeping.child.answer()
    keeping.child.answer()
    assert outcome(keeping.kept.ready()) is keeping.child
    assert keeping.child.names == [("init", PARAM), ("loadLora", "x")]


def test_replay_that_hangs(forgive):
    keeping = Keeping(init=10)
    keeping.load()
    keeping.crash()
    hanging = keeping.child
    keeping.clock.advance(9.9)
    assert hanging.hung is None
    keeping.clock.advance(0.2)
    assert hanging.hung == "init took more than 10 s"
    keeping.child.answer()
    assert outcome(keeping.kept.ready()) is keeping.child


def test_death_in_the_first_init_is_final():
    keeping = Keeping()
    started = keeping.kept.start(PARAM)
    keeping.crash()
    assert outcome(started).data == {"signal": "SIGSEGV", "restarting": False}
    assert len(keeping.children) == 1
    assert not keeping.clock.getDelayedCalls()


def test_nothing_is_left_waiting(forgive):
    keeping = Keeping(memory=2**60)
    keeping.load()
    keeping.kept.call("getKVCacheSize").addErrback(lambda _: None)
    outcome(keeping.kept.stop())
    assert not keeping.clock.getDelayedCalls()


# Memory


@pytest.fixture
def sizes(monkeypatch):
    """Bytes by process id."""
    sizes = {}
    monkeypatch.setattr(keeping, "residentBytes", lambda pid: sizes.get(pid, 0))
    return sizes


def test_child_that_has_grown_is_exchanged(sizes):
    keeping = Keeping(memory=1000, memorySeconds=5, crashes=1)
    keeping.load()
    sizes[1] = 1000
    keeping.clock.advance(5)
    assert len(keeping.children) == 1
    sizes[1] = 1001
    keeping.clock.advance(4.9)
    assert keeping.kept.epoch == 0
    keeping.clock.advance(0.1)
    assert len(keeping.children) == 2, "an exchange is no crash"
    assert keeping.kept.epoch == 1
    keeping.child.answer()
    sizes[2] = 1001
    keeping.clock.advance(5)
    assert len(keeping.children) == 3
    keeping.kept.stop()


def test_busy_child_is_not_exchanged(sizes):
    """Neither in a run nor in a function: both would be lost."""
    keeping = Keeping(memory=1000, memorySeconds=5)
    keeping.load()
    sizes[1] = 5000
    called = keeping.kept.call("loadLora", "x")
    keeping.clock.advance(20)
    assert len(keeping.children) == 1
    keeping.child.answer()
    assert outcome(called) == b""
    keeping.clock.advance(5)
    assert len(keeping.children) == 2
    keeping.kept.stop()


def test_child_that_is_too_large_from_the_start_is_kept(sizes, logged):
    """Another would be no smaller: it would be exchanged for ever."""
    keeping = Keeping(memory=1000, memorySeconds=5)
    sizes[1] = 5000
    keeping.load()
    for _ in range(10):
        keeping.clock.advance(5)
    assert len(keeping.children) == 1
    assert len([event for event in logged if "as soon as it is loaded" in event["log_format"]]) == 1
    keeping.kept.stop()


def test_epoch_has_changed_as_soon_as_the_exchange_begins(sizes):
    """The next run is entered before the old child is seen to have ended."""
    keeping = Keeping(memory=1000)
    keeping.load()
    sizes[1] = 5000
    keeping.child.kill = lambda: None
    keeping.kept.exchangeIfLarge()
    assert keeping.kept.epoch == 1
    waiting = keeping.kept.ready()
    assert not waiting.called
    keeping.crash()
    assert keeping.kept.epoch == 1
    keeping.child.answer()
    assert outcome(waiting) is keeping.child
    keeping.kept.stop()


def test_resident_bytes_are_those_of_the_process():
    size = residentBytes(os.getpid())
    with open("/proc/self/status") as status:
        (resident,) = [int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS")]
    assert size == pytest.approx(resident, rel=0.1)
    assert residentBytes(None) == 0


# Its end


def test_retired_child_has_no_successor():
    keeping = Keeping()
    keeping.load()
    keeping.kept.retire()
    called = keeping.kept.call("getKVCacheSize")
    keeping.crash()
    assert len(keeping.children) == 1
    assert outcome(called).data == {"signal": "SIGSEGV", "restarting": False}
    outcome(keeping.kept.stop())


def test_who_waits_is_told_when_it_is_stopped(forgive):
    keeping = Keeping()
    keeping.load()
    keeping.crash()
    waiting = keeping.kept.ready()
    outcome(keeping.kept.stop())
    assert isinstance(outcome(waiting), BackendLost)

"""The runs that are open."""

from twisted.internet.task import Clock

from rkllm_twisted.methods.runs import OpenRuns


def test_drained_when_the_last_has_ended():
    clock = Clock()
    runs, fired = OpenRuns(clock), []
    for run in ("one", "two"):
        runs.add(run)
    runs.drain(10).addCallback(fired.append)
    runs.remove("one")
    assert (list(runs), fired) == (["two"], [])
    runs.remove("two")
    assert (list(runs), fired, clock.getDelayedCalls()) == ([], [None], [])

"""Who has the model now."""

import pytest
from twisted.internet.task import Clock

from rkllm_twisted.errors import Busy, ShuttingDown
from rkllm_twisted.scheduling.scheduler import Scheduler


class Line:
    """A scheduler, and the turns that it began and refused, by name."""

    def __init__(self, limit=64):
        self.scheduler = Scheduler(Clock(), limit)
        self.begun, self.refused, self.turns = [], [], {}

    def request(self, name, owner=None):
        """The owner is the first letter, if none is given."""
        turn = self.scheduler.request(
            owner or name[0], lambda turn: self.begun.append(name), lambda error: self.refused.append((name, error))
        )
        self.turns[name] = turn

    def endAll(self):
        while self.scheduler.running is not None:
            self.scheduler.running.end()


def test_round_robin_between_owners():
    """W-TURNS."""
    line = Line()
    for name in ("a1", "a2", "a3", "b1", "c1", "b2"):
        line.request(name)
    line.endAll()
    assert line.begun == ["a1", "a2", "b1", "c1", "a3", "b2"]


def test_one_at_a_time():
    """W-TURNS."""
    line = Line()
    line.request("a1")
    line.request("b1")
    assert line.begun == ["a1"]
    line.turns["a1"].end()
    assert line.begun == ["a1", "b1"]
    with pytest.raises(ValueError, match="once"):
        line.turns["a1"].end()


def test_bounded():
    """W-TURNS: the limit is of those that wait, all owners together."""
    line = Line(limit=2)
    for name in ("a1", "b1", "c1"):
        line.request(name)
    with pytest.raises(Busy) as refused:
        line.request("d1")
    assert refused.value.data == {"queue_length": 2}
    line.turns["a1"].end()
    line.request("d1")


def test_withdrawn_turn_never_begins():
    line = Line(limit=1)
    line.request("a1")
    line.request("b1")
    assert line.turns["b1"].withdraw()
    assert not line.turns["b1"].withdraw()
    assert not line.turns["a1"].withdraw()
    line.request("c1")
    line.endAll()
    assert line.begun == ["a1", "c1"]


def test_turns_that_end_at_once_do_not_pile_up():
    """A line longer than Python's stack is deep."""
    scheduler, begun = Scheduler(Clock(), 5000), []
    first = scheduler.request("a", lambda turn: None, None)
    for number in range(5000):
        scheduler.request(number % 7, lambda turn: (begun.append(turn), turn.end()), None)
    first.end()
    assert len(begun) == 5000


def test_close_refuses_what_waits_and_what_comes():
    """W-CODES: -32003."""
    line = Line()
    line.request("a1")
    line.request("b1")
    line.scheduler.close()
    assert [(name, type(error)) for name, error in line.refused] == [("b1", ShuttingDown)]
    with pytest.raises(ShuttingDown):
        line.request("c1")
    line.turns["a1"].end()
    assert line.begun == ["a1"]

"""What holds of turns whatever happens, in whatever order (W-TURNS, W-LAST)."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.task import Clock

from rkllm_twisted.errors import Busy, DeadlinePassed, ShuttingDown
from rkllm_twisted.scheduling.scheduler import Scheduler

LIMIT = 6
PATIENCE = 10.0
OWNERS = st.sampled_from("abcd")


class Turns(RuleBasedStateMachine):
    """A scheduler beside a model of it: for each owner a list of those that wait, and the order of the owners."""

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.scheduler = Scheduler(self.clock, LIMIT, PATIENCE)
        self.endings = Counter()
        self.asked = 0
        self.turns = {}  # by number, those that have not ended
        self.lines = {}  # the model: owner -> numbers waiting; the order of the keys is the order of the owners
        self.running = None
        self.isClosed = False

    @rule(owner=OWNERS)
    def request(self, owner):
        number = self.asked
        self.asked += 1
        isFull = sum(map(len, self.lines.values())) >= LIMIT
        try:
            turn = self.scheduler.request(
                owner, lambda turn: self.begun(number), lambda error: self.refused(number, error)
            )
        except ShuttingDown:
            assert self.isClosed
        except Busy as error:
            assert isFull
            assert error.data["queue_length"] == LIMIT  # noqa: PT017  # one of three outcomes
        else:
            assert not self.isClosed
            assert not isFull
            self.turns[number] = turn
            if self.running != number:
                self.lines.setdefault(owner, []).append(number)

    def begun(self, number):
        assert self.running is None, "two at once"
        self.running = number
        if self.lines:
            owner, line = next(iter(self.lines.items()))
            assert line[0] == number, "not the one whose turn it was"
            self.lines.pop(owner)
            if line[1:]:
                self.lines[owner] = line[1:]

    def refused(self, number, error):
        assert isinstance(error, ShuttingDown if self.isClosed else DeadlinePassed)
        self.forget(number)

    def forget(self, number):
        self.endings[number] += 1
        turn = self.turns.pop(number)
        line = self.lines[turn.owner]
        line.remove(number)
        if not line:
            del self.lines[turn.owner]

    @precondition(lambda self: self.running is not None)
    @rule()
    def end(self):
        number, self.running = self.running, None
        self.endings[number] += 1
        self.turns.pop(number).end()

    @precondition(lambda self: self.turns)
    @rule(data=st.data())
    def withdraw(self, data):
        number = data.draw(st.sampled_from(sorted(self.turns)))
        assert self.turns[number].withdraw() is (number != self.running)
        if number != self.running:
            self.forget(number)

    @rule(seconds=st.sampled_from([1.0, 4.0, PATIENCE]))
    def wait(self, seconds):
        self.clock.advance(seconds)

    @precondition(lambda self: self.asked > 10)
    @rule()
    def close(self):
        self.isClosed = True
        self.scheduler.close()

    @invariant()
    def nobodyWaitsBesideAFreeModel(self):
        assert self.running is not None or not self.lines

    @invariant()
    def linesAreTheModels(self):
        waiting = [self.turns[number] for line in self.lines.values() for number in line]
        assert len(waiting) == self.scheduler.queueLength
        assert set(waiting) == set(self.scheduler.waiting())

    @invariant()
    def nobodyWaitsTooLong(self):
        assert all(self.clock.seconds() - turn.since < PATIENCE for turn in self.scheduler.waiting())

    @invariant()
    def eachEndsOnce(self):
        assert all(count == 1 for count in self.endings.values())

    def teardown(self):
        """Whatever was left comes to its end, in the order that was foretold."""
        while self.running is not None:
            order = self.scheduler.waiting()
            self.end()
            assert (self.turns[self.running] is order[0]) if order else (self.running is None)
        assert not self.turns
        assert not self.clock.getDelayedCalls()


Turns.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_turns = Turns.TestCase


def test_nobody_starves():
    """W-TURNS: with k connections always asking, each gets a turn within k turns."""
    scheduler, begun = Scheduler(Clock(), 100), []

    def ask(owner):
        scheduler.request(owner, lambda turn: begun.append(owner), None)

    owners = "abcdefg"
    for owner in owners:
        ask(owner)
        ask(owner)
    for _ in range(200):
        ask(begun[-1])  # whoever was served asks again at once
        scheduler.running.end()
    for start in range(1, len(begun) - len(owners) + 1):  # the very first began before the others had asked
        assert set(begun[start : start + len(owners)]) == set(owners)

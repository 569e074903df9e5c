"""Whose history is in the cache, when the cache itself may be gone (W-HISTORY)."""

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from rkllm_twisted.backends.scripted import ScriptedBackend, ScriptedModel
from rkllm_twisted.errors import BackendLost
from rkllm_twisted.methods.history import History
from rkllm_twisted.testing.peers import Server
from rkllm_twisted.values import Capability
from rkllm_twisted.wire.connection import Connection, Peer

LOST = {"history_lost": True}


class Model:
    """What the history looks at."""

    capabilities = frozenset({Capability.CLEAR_KV_CACHE})

    def __init__(self):
        self.epoch = 0
        self.cleared = 0

    def clearKVCache(self, keepSystemPrompt, ranges):
        self.cleared += 1
        return succeed(None)


def connection(uid=0):
    return Connection(lambda data: None, lambda: None, Peer(1, uid, 0))


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def history():
    return History()


def test_history_that_died_between_two_runs_is_told_once(model, history):
    mine = connection()
    history.enter(model, mine, True)
    assert history.lossOf(mine, True) == {}
    model.epoch += 1
    history.enter(model, mine, True)
    assert history.lossOf(mine, True) == LOST
    history.told(mine)
    history.enter(model, mine, True)
    assert history.lossOf(mine, True) == {}
    assert model.cleared == 0  # a new process has nothing to clear


def test_run_without_history_is_told_nothing_and_takes_nothing_away(model, history):
    """It is the next one with history that lacks it."""
    mine = connection()
    history.enter(model, mine, True)
    model.epoch += 1
    history.enter(model, mine, False)
    assert history.lossOf(mine, False) == {}
    history.enter(model, mine, True)
    assert history.lossOf(mine, True) == LOST


def test_owner_is_told_whoever_runs_first_after_the_death(model, history):
    mine, other = connection(), connection()
    history.enter(model, mine, True)
    model.epoch += 1
    history.enter(model, other, True)
    assert history.lossOf(other, True) == {}
    history.enter(model, mine, True)
    assert history.lossOf(mine, True) == LOST


def test_history_that_dies_in_its_run_is_told_by_the_error_and_not_again(model, history):
    mine = connection()
    history.enter(model, mine, True)
    assert history.died(mine) == LOST
    model.epoch += 1
    history.enter(model, mine, True)
    assert history.lossOf(mine, True) == {}


def test_nobody_is_told_of_a_death_without_history(model, history):
    mine = connection()
    history.enter(model, mine, False)
    model.epoch += 1
    history.enter(model, mine, True)
    assert history.lossOf(mine, True) == {}


def test_several_deaths_are_told_once(model, history):
    mine = connection()
    history.enter(model, mine, True)
    model.epoch += 3
    history.enter(model, mine, True)
    assert history.lossOf(mine, True) == LOST
    model.epoch += 1
    history.enter(model, mine, True)
    assert history.lossOf(mine, True) == LOST


# Over the methods


class MortalModel(ScriptedModel):
    """Dies when the prompt says so: before its first token, or after."""

    def __init__(self, backend):
        super().__init__(backend._clock, backend._script, 0, -1)

    def run(self, input, inferParam, receiver, delivery):
        if "die" not in input.prompt_input:
            return super().run(input, inferParam, receiver, delivery)
        self.epoch += 1
        self._history.clear()
        script, self._script = self._script, self._dying
        try:
            return super().run(input, inferParam, receiver, delivery)
        finally:
            self._script = script
            self._history.clear()

    def _dying(self, input):
        yield from input.prompt_input.split()[:-1]
        raise BackendLost("its process was killed by SIGSEGV", signal="SIGSEGV", restarting=True)


class MortalBackend(ScriptedBackend):
    def init(self, param):
        return succeed(MortalModel(self))


class Conversation:
    """A peer of a model that may die."""

    def __init__(self, server):
        self.peer = server.connect()

    def say(self, prompt, keeps=1):
        return self.peer.ask("rkllm.run", {"prompt_input": prompt}, {"keep_history": keeps})


@pytest.fixture
def server():
    clock = Clock()
    server = Server(MortalBackend(clock), clock)
    server.connect().ask("rkllm.init", {"model_path": "any"})
    return server


def test_death_before_the_first_token(server):
    """W-CODES: -32006 with history_lost."""
    mine = Conversation(server)
    assert "history_lost" not in mine.say("one")[-1]["result"]
    [error] = mine.say("die")
    assert error["error"]["code"] == -32006
    assert error["error"]["data"] == {
        "retryable": True,
        "signal": "SIGSEGV",
        "restarting": True,
        "history_lost": True,
    }
    *texts, last = mine.say("two")
    assert [text["result"]["text"] for text in texts] == ["two"]
    assert "history_lost" not in last["result"]


def test_death_after_the_first_token(server):
    """W-FINISH: state 3, with the error inside."""
    mine = Conversation(server)
    mine.say("one")
    *_, last = mine.say("two three die")
    assert last["result"]["_callback_state"] == 3
    assert last["result"]["error"]["data"]["history_lost"] is True


def test_death_of_a_run_without_history(server):
    """It has lost nothing; the one whose history was there is told on its next finish line."""
    mine, other = Conversation(server), Conversation(server)
    mine.say("one")
    [error] = other.say("die", keeps=0)
    assert "history_lost" not in error["error"]["data"]
    assert mine.say("two")[-1]["result"]["history_lost"] is True
    assert "history_lost" not in mine.say("three")[-1]["result"]


def test_history_dies_with_the_connection_that_had_it(server):
    mine = Conversation(server)
    mine.say("one")
    mine.peer.disconnect()
    other = Conversation(server)
    [error] = other.say("die", keeps=0)
    assert "history_lost" not in error["error"]["data"]
    assert "history_lost" not in other.say("two")[-1]["result"]


def test_waiting_run_is_served_after_a_death():
    clock = Clock()
    backend = MortalBackend(clock)
    loading = Deferred()
    backend.init = lambda param: loading.addCallback(lambda _: MortalModel(backend))
    server = Server(backend, clock)
    first, second = server.connect(), server.connect()
    first.send({"jsonrpc": "2.0", "id": 0, "method": "rkllm.init", "params": [{"model_path": "any"}]})
    for peer, prompt in ((first, "die"), (second, "two")):
        peer.send({"jsonrpc": "2.0", "id": 1, "method": "rkllm.run", "params": [{"prompt_input": prompt}]})
    loading.callback(None)
    assert [message.get("error", {}).get("code") for message in first.received()] == [None, -32006]
    assert [message["result"]["text"] for message in second.received()] == ["two", None]

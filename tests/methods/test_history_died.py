"""Whose history is in the cache, when the cache itself may be gone (W-HISTORY)."""

import pytest
from msgspec import structs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from rkllm_twisted.backends.scripted import ScriptedBackend, ScriptedModel, echo
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


@pytest.fixture
def lost(model, history):
    """A function that begins a run, and returns what its finish line says of the history before it."""

    def lost(connection, keeps=True):
        history.enter(model, connection, keeps)
        return history.lossOf(connection, keeps)

    return lost


def test_history_that_died_between_two_runs_is_told_once(model, history, lost):
    mine = connection()
    assert lost(mine) == {}
    model.epoch += 1
    assert lost(mine) == LOST
    history.told(mine)
    assert lost(mine) == {}
    assert model.cleared == 0  # a new process has nothing to clear


def test_run_without_history_is_told_nothing_and_takes_nothing_away(model, lost):
    """It is the next one with history that lacks it."""
    mine = connection()
    lost(mine)
    model.epoch += 1
    assert lost(mine, keeps=False) == {}
    assert lost(mine) == LOST


def test_owner_is_told_whoever_runs_first_after_the_death(model, lost):
    mine, other = connection(), connection()
    lost(mine)
    model.epoch += 1
    assert lost(other) == {}
    assert lost(mine) == LOST


def test_history_that_dies_in_its_run_is_told_by_the_error_and_not_again(model, history, lost):
    mine = connection()
    lost(mine)
    assert history.died(mine) == LOST
    model.epoch += 1
    assert lost(mine) == {}


def test_nobody_is_told_of_a_death_without_history(model, lost):
    mine = connection()
    lost(mine, keeps=False)
    model.epoch += 1
    assert lost(mine) == {}


def test_several_deaths_are_told_once(model, lost):
    mine = connection()
    lost(mine)
    model.epoch += 3
    assert lost(mine) == LOST
    model.epoch += 1
    assert lost(mine) == LOST


# Over the methods


def script(input):
    """The words of the prompt; at "die" the process of the model ends."""
    for word in echo(input):
        if word.strip() == "die":
            raise BackendLost("its process was killed by SIGSEGV", signal="SIGSEGV", restarting=True)
        yield word


class MortalModel(ScriptedModel):
    """After a death it is another process, which knows of no history."""

    def run(self, input, inferParam, receiver, delivery):
        if "die" in input.prompt_input:
            self.epoch += 1
            inferParam = structs.replace(inferParam, keep_history=0)
        return super().run(input, inferParam, receiver, delivery)


class MortalBackend(ScriptedBackend):
    def init(self, param):
        return succeed(MortalModel(self._clock, script, interval=0, limit=-1))


def say(peer, prompt, keeps=1):
    """The lines of a run."""
    return peer.ask("rkllm.run", {"prompt_input": prompt}, {"keep_history": keeps})


def hasLost(lines):
    """Whether the finish line says that the history before it is lost."""
    return lines[-1]["result"].get("history_lost", False)


@pytest.fixture
def server():
    clock = Clock()
    server = Server(MortalBackend(clock), clock)
    server.connect().ask("rkllm.init", {"model_path": "any"})
    return server


def test_death_before_the_first_token(server):
    """W-CODES: -32006 with history_lost."""
    mine = server.connect()
    assert not hasLost(say(mine, "one"))
    [error] = say(mine, "die")
    assert error["error"]["code"] == -32006
    assert error["error"]["data"] == {
        "retryable": True,
        "signal": "SIGSEGV",
        "restarting": True,
        "history_lost": True,
    }
    *texts, last = say(mine, "two")
    assert [text["result"]["text"] for text in texts] == ["two"]
    assert "history_lost" not in last["result"]


def test_death_after_the_first_token(server):
    """W-FINISH: state 3, with the error inside."""
    mine = server.connect()
    say(mine, "one")
    *_, last = say(mine, "two three die")
    assert last["result"]["_callback_state"] == 3
    assert last["result"]["error"]["data"]["history_lost"] is True


def test_death_of_a_run_without_history(server):
    """It has lost nothing; the one whose history was there is told on its next finish line."""
    mine, other = server.connect(), server.connect()
    say(mine, "one")
    [error] = say(other, "die", keeps=0)
    assert "history_lost" not in error["error"]["data"]
    assert hasLost(say(mine, "two"))
    assert not hasLost(say(mine, "three"))


def test_history_dies_with_the_connection_that_had_it(server):
    mine = server.connect()
    say(mine, "one")
    mine.disconnect()
    other = server.connect()
    [error] = say(other, "die", keeps=0)
    assert "history_lost" not in error["error"]["data"]
    assert not hasLost(say(other, "two"))


def test_waiting_run_is_served_after_a_death():
    clock = Clock()
    backend = MortalBackend(clock)
    loading = Deferred()
    init = backend.init
    backend.init = lambda param: loading.addCallback(lambda _: init(param))
    server = Server(backend, clock)
    first, second = server.connect(), server.connect()
    first.send({"jsonrpc": "2.0", "id": 0, "method": "rkllm.init", "params": [{"model_path": "any"}]})
    for peer, prompt in ((first, "die"), (second, "two")):
        peer.send({"jsonrpc": "2.0", "id": 1, "method": "rkllm.run", "params": [{"prompt_input": prompt}]})
    loading.callback(None)
    assert [message.get("error", {}).get("code") for message in first.received()] == [None, -32006]
    assert [message["result"]["text"] for message in second.received()] == ["two", None]

"""What a transcript cannot show of rkllm.*: a backend that takes its time, or fails."""

import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from rkllm_twisted.backends.scripted import ScriptedBackend, ScriptedGeneration, ScriptedModel
from rkllm_twisted.errors import ModelLoadFailed, RuntimeCallFailed
from rkllm_twisted.testing.peers import Server

INIT = {"jsonrpc": "2.0", "id": "init", "method": "rkllm.init", "params": [{"model_path": "any"}]}
RUN = {"jsonrpc": "2.0", "id": "run", "method": "rkllm.run", "params": [{"prompt_input": "one"}]}


class SlowBackend(ScriptedBackend):
    """Loads and checks when the test says so."""

    def __init__(self, clock):
        super().__init__(clock)
        self.checks, self.loads = [], []

    def checkParam(self, param):
        self.checks.append(Deferred())
        return self.checks[-1]

    def init(self, param):
        self.loads.append(Deferred())
        return self.loads[-1].addCallback(lambda _: ScriptedBackend(self._clock).init(param))


def outcomes(messages):
    """The id of each message, with what is telling in it."""
    return [
        (message["id"], message["error"]["code"] if "error" in message else message["result"].get("text", True))
        for message in messages
    ]


def test_init_and_run_in_one_packet():
    """W-STATE: the init has its place in the line before its parameters are checked."""
    clock = Clock()
    backend = SlowBackend(clock)
    peer = Server(backend, clock).connect()
    peer.send(b"".join(msgspec.json.encode(message) + b"\n" for message in (INIT, RUN)))
    assert peer.received() == []
    backend.checks[0].callback(None)
    backend.loads[0].callback(None)
    assert outcomes(peer.received()) == [("init", True), ("run", "one"), ("run", None)]


def test_bad_parameters_are_refused_without_waiting_for_the_turn():
    """W-MODEL."""
    clock = Clock()
    backend = SlowBackend(clock)
    peer = Server(backend, clock).connect()
    peer.send(INIT)
    peer.send({**INIT, "id": "second"})
    backend.checks[1].errback(ModelLoadFailed("no such file"))
    assert outcomes(peer.received()) == [("second", -32005)]
    backend.checks[0].errback(ModelLoadFailed("no such file"))
    assert outcomes(peer.received()) == [("init", -32005)]


def test_failed_load_leaves_the_daemon_alive():
    """W-MODEL."""
    clock = Clock()
    backend = SlowBackend(clock)
    peer = Server(backend, clock).connect()
    peer.send(INIT)
    backend.checks[0].callback(None)
    backend.loads[0].errback(ModelLoadFailed("no memory"))
    assert outcomes(peer.received()) == [("init", -32005)]
    peer.send(RUN)
    assert outcomes(peer.received()) == [("run", -32000)]


def test_model_outlives_its_connection():
    """W-MODEL, W-GONE: also if that goes away while it loads."""
    clock = Clock()
    backend = SlowBackend(clock)
    server = Server(backend, clock)
    first, second = server.connect(), server.connect()
    first.send(INIT)
    first.disconnect()
    second.send(RUN)
    backend.checks[0].callback(None)
    backend.loads[0].callback(None)
    assert outcomes(second.received()) == [("run", "one"), ("run", None)]


def test_waiting_init_of_a_lost_connection_is_not_carried_out():
    """W-GONE."""
    clock = Clock()
    backend = SlowBackend(clock)
    server = Server(backend, clock)
    first, second = server.connect(), server.connect()
    first.send(INIT)
    second.send(INIT)
    second.disconnect()
    for check in backend.checks:
        check.callback(None)
    backend.loads[0].callback(None)
    assert len(backend.loads) == 1
    assert outcomes(first.received()) == [("init", True)]


def failing(input):
    """Two tokens, then a failure."""
    yield "one"
    yield " two"
    raise RuntimeCallFailed(function="rkllm_run", status=-1)


def test_failure_in_the_middle_ends_the_run_and_not_the_next():
    """W-LAST, W-FINISH."""
    clock = Clock()
    peer = Server(ScriptedBackend(clock, failing), clock).connect()
    peer.send(INIT)
    peer.send(RUN)
    peer.send({**RUN, "id": "next"})
    messages = peer.received()
    said = ["one", " two", None]
    assert outcomes(messages)[1:] == [(id, text) for id in ("run", "next") for text in said]
    assert messages[3]["result"]["_callback_state"] == 3
    assert messages[3]["result"]["error"]["data"] == {"retryable": False, "function": "rkllm_run", "status": -1}


def test_shutting_down_gives_everyone_a_last_line():
    """W-LAST, W-CODES: -32003."""
    clock = Clock()
    server = Server(ScriptedBackend(clock, interval=1), clock)
    peer = server.connect()
    peer.send(INIT)
    peer.send(RUN)
    peer.received(1)
    peer.send({**RUN, "id": "waiting"})
    done = server.runtime.shutDown()
    messages = peer.received()
    assert outcomes(messages) == [("waiting", -32003), ("run", None)]
    assert messages[1]["result"]["finish_reason"] == "abort"
    assert done.called
    peer.send(RUN)
    assert outcomes(peer.received()) == [("run", -32003)]


def test_bad_input_of_run_async_is_not_acknowledged():
    """W-STREAM: the acknowledgement means that the run has its place in the line."""
    clock = Clock()
    peer = Server(ScriptedBackend(clock), clock).connect()
    assert outcomes(peer.ask("rkllm.run_async", {"input_type": 1}, id="run")) == [("run", -32602)]


def test_model_that_is_loaded_too_late_is_freed():
    """W-LAST: nobody waits for the load to end, and nobody is there any more to use the model."""
    clock = Clock()
    backend = SlowBackend(clock)
    server = Server(backend, clock)
    peer = server.connect()
    peer.send(INIT)
    backend.checks[0].callback(None)
    assert server.runtime.shutDown().called
    assert outcomes(peer.received()) == [("init", -32003)]
    backend.loads[0].callback(None)
    assert peer.received() == []
    assert not server.runtime.held.isLoaded


class Draining:
    """A server that has been told to stop while a generation of three words runs, at one word a second."""

    def __init__(self, drain, **options):
        clock = Clock()
        self.server = Server(ScriptedBackend(clock, interval=1), clock, **options)
        self.peer, self.other = self.server.connect(), self.server.connect()
        self.peer.send(INIT)
        self.peer.send({**RUN, "params": [{"prompt_input": "one two three"}]})
        assert outcomes(self.peer.received(1)) == [("init", True), ("run", "one")]
        self.other.send({**RUN, "id": "waiting"})
        self.done = self.server.runtime.shutDown(drain)


def test_running_generation_may_finish():
    """W-LAST, W-CODES: what waits is refused with -32003 at once, what runs goes on."""
    draining = Draining(10)
    assert outcomes(draining.other.received()) == [("waiting", -32003)]
    assert not draining.done.called
    messages = draining.peer.received(3)
    assert outcomes(messages) == [("run", " two"), ("run", " three"), ("run", None)]
    assert messages[-1]["result"]["finish_reason"] == "stop"
    assert draining.done.called
    assert not draining.server.runtime.held.isLoaded
    assert draining.server.clock.getDelayedCalls() == []


def test_new_requests_are_refused_while_it_drains():
    """W-CODES: -32003; what needs no turn is answered."""
    draining = Draining(10)
    draining.other.received()
    for method in ("rkllm.run", "rkllm.run_async"):
        assert outcomes(draining.other.ask(method, {"prompt_input": "x"}, id=1)) == [(1, -32003)]
    assert outcomes(draining.other.ask("rkllm.init", {"model_path": "any"}, id=2)) == [(2, -32003)]
    assert outcomes(draining.peer.ask("rkllm.clear_kv_cache", 0, id=3)) == [(3, -32003)]
    [answer] = draining.other.ask("rkllm.is_running")
    assert answer["result"]["is_running"] is True
    assert outcomes(draining.peer.received(3))[-1] == ("run", None)
    assert draining.done.called


def test_patience_ends():
    """The generation is aborted then, and has its last line."""
    draining = Draining(1.5)
    messages = draining.peer.received(1.4)
    assert outcomes(messages) == [("run", " two")]
    [last] = draining.peer.received(0.2)
    assert last["result"]["finish_reason"] == "abort"
    assert draining.done.called


def test_patience_ends_with_a_generation_that_is_deaf(monkeypatch):
    """The model is destroyed then, for which there is a limit; the prefill of a long prompt may take minutes."""
    monkeypatch.setattr(ScriptedGeneration, "abort", lambda self: None)
    monkeypatch.setattr(ScriptedModel, "destroy", lambda self: succeed(None))
    draining = Draining(1.5)
    draining.peer.received(1.4)
    assert not draining.done.called
    draining.peer.received(0.2)
    assert draining.done.called


def test_client_may_end_the_draining():
    """W-ABORT, W-GONE."""
    for end in (lambda peer: peer.ask("rkllm.abort"), lambda peer: peer.disconnect()):
        draining = Draining(1000)
        end(draining.peer)
        draining.other.received()
        assert draining.done.called
        assert draining.server.clock.getDelayedCalls() == []


def test_draining_with_nothing_that_runs():
    clock = Clock()
    server = Server(ScriptedBackend(clock), clock)
    server.connect().send(INIT)
    assert server.runtime.shutDown(1000).called
    assert clock.getDelayedCalls() == []


def test_load_in_progress_is_not_drained():
    """It is no generation: nobody could use the model."""
    clock = Clock()
    backend = SlowBackend(clock)
    server = Server(backend, clock)
    peer = server.connect()
    peer.send(INIT)
    backend.checks[0].callback(None)
    assert server.runtime.shutDown(1000).called
    assert outcomes(peer.received()) == [("init", -32003)]
    backend.loads[0].callback(None)
    assert not server.runtime.held.isLoaded

"""What clears the history of another connection (W-HISTORY), over a backend that remembers and has every function."""

import pytest
from twisted.internet.defer import fail, succeed
from twisted.internet.task import Clock

from rkllm_twisted.backends.scripted import ScriptedBackend, ScriptedModel, echo
from rkllm_twisted.errors import InvalidParams, NotSupported, RuntimeCallFailed
from rkllm_twisted.testing.peers import Server
from rkllm_twisted.values import Capability

CLEARING = {
    "rkllm.clear_kv_cache": [],
    "rkllm.set_chat_template": ["", "", ""],
    "rkllm.set_function_tools": ["", "[]", ""],
}


class RememberingModel(ScriptedModel):
    """Its template and its tools clear the cache, as those of every model do."""

    capabilities = frozenset(Capability)
    refusal = None
    cleared = ()

    def clearKVCache(self, keepSystemPrompt, ranges):
        self.cleared = (*self.cleared, ranges)
        return fail(self.refusal) if self.refusal else super().clearKVCache(keepSystemPrompt, ranges)

    def setChatTemplate(self, *parts):
        return self.clearKVCache(False, None)

    def setFunctionTools(self, *parts):
        return self.clearKVCache(False, None)


def script(input):
    """The words of the prompt; "fail" fails, before anything is said or behind the word before it."""
    for word in echo(input):
        if word.strip() == "fail":
            raise RuntimeCallFailed(function="rkllm_run", status=-1)
        yield word


class RememberingBackend(ScriptedBackend):
    def init(self, param):
        self.model = RememberingModel(self._clock, script, self._interval, -1)
        return succeed(self.model)


@pytest.fixture
def party():
    """Two connections, the first of which has said "one" and kept it; and the model."""
    clock = Clock()
    backend = RememberingBackend(clock)
    server = Server(backend, clock)
    owner, other = server.connect(), server.connect()
    owner.ask("rkllm.init", {"model_path": "any"})
    assert said(owner, "one") == ("one", False)
    return owner, other, backend.model


def said(peer, prompt, keeps=1):
    """What a run says, and whether it tells that the history before it is lost."""
    [answer] = peer.ask("rkllm.run", None, {"prompt_input": prompt}, {"keep_history": keeps}, {"stream": "whole"})
    return answer["result"]["text"], answer["result"].get("history_lost", False)


@pytest.mark.parametrize("method", CLEARING)
def test_owner_is_told_once(party, method):
    owner, other, _ = party
    assert other.ask(method, *CLEARING[method])[0]["result"]["success"] is True
    assert said(owner, "two") == ("two", True)
    assert said(owner, " three") == ("two three", False)


@pytest.mark.parametrize("method", CLEARING)
def test_whoever_clears_the_own_history_is_told_nothing(party, method):
    owner, _, _ = party
    owner.ask(method, *CLEARING[method])
    assert said(owner, "two") == ("two", False)


RELOADING = ("rkllm.init", {"model_path": "any"})


def test_whoever_loads_a_model_anew_is_told_nothing_and_another_owner_is(party):
    owner, other, _ = party
    owner.ask(*RELOADING)
    assert said(owner, "two") == ("two", False)
    other.ask("rkllm.destroy")
    other.ask(*RELOADING)
    assert said(owner, "three") == ("three", True)


@pytest.mark.parametrize("method", CLEARING)
@pytest.mark.parametrize(
    "refusal", [RuntimeCallFailed(function="f", status=-1), NotSupported(needs="x"), InvalidParams("x")]
)
def test_what_fails_has_cleared_nothing(party, method, refusal):
    owner, other, model = party
    model.refusal = refusal
    assert other.ask(method, *CLEARING[method])[0]["error"]["code"] == refusal.code
    assert said(owner, " two") == ("one two", False)


def test_ranges_of_anothers_history_clear_all_of_it(party):
    owner, other, model = party
    said(owner, " two")
    other.ask("rkllm.clear_kv_cache", None, 0, [1], [2])
    owner.ask("rkllm.clear_kv_cache", None, 0, None, None)
    said(owner, "three four")
    owner.ask("rkllm.clear_kv_cache", None, 0, [1], [2])
    assert model.cleared == (None, None, [(1, 2)])


def test_ranges_of_the_own_history_leave_the_rest(party):
    owner, _, _ = party
    said(owner, " two")
    owner.ask("rkllm.clear_kv_cache", None, 0, [0], [1])
    assert said(owner, " three") == (" two three", False)


def test_run_that_keeps_nothing_is_told_nothing_and_ends_the_history(party):
    owner, other, _ = party
    other.ask("rkllm.clear_kv_cache")
    assert said(owner, "two", keeps=0) == ("two", False)
    assert said(owner, "three") == ("three", True)


@pytest.mark.parametrize("prompt", ["fail", "two fail"])
def test_owner_whose_run_fails_is_told_by_the_next(party, prompt):
    """Only a finish line tells it."""
    owner, other, _ = party
    other.ask("rkllm.clear_kv_cache")
    owner.ask("rkllm.run", None, {"prompt_input": prompt}, {"keep_history": 1})
    owner.ask("rkllm.clear_kv_cache")
    assert said(owner, "three") == ("three", True)
    assert said(owner, " four") == ("three four", False)


def test_owner_whose_run_is_aborted_before_it_says_anything_is_told_by_the_next(party):
    owner, other, _ = party
    other.ask("rkllm.clear_kv_cache")
    owner.send(
        {"jsonrpc": "2.0", "id": 1, "method": "rkllm.run", "params": [{"prompt_input": "x"}, {"keep_history": 1}]}
    )
    assert [answer.get("error", {}).get("code") for answer in owner.ask("rkllm.abort", id=2)] == [None, -32800]
    owner.ask("rkllm.clear_kv_cache")
    assert said(owner, "two") == ("two", True)


def test_clearing_ends_what_nobody_owns_too(party):
    """A second clear of the same history does not count twice, nor does one after its owner has gone on."""
    owner, other, _ = party
    other.ask("rkllm.clear_kv_cache")
    other.ask("rkllm.clear_kv_cache")
    assert said(owner, "two") == ("two", True)
    assert said(owner, " three") == ("two three", False)
    assert said(other, "four") == ("four", False)

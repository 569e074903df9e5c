"""The files that clients name: open as long as the model needs them, and under the clients' names in errors."""

import os
from pathlib import Path

import pytest
from msgspec import structs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from rkllm_twisted.backends.scripted import ScriptedBackend, ScriptedModel
from rkllm_twisted.errors import ModelLoadFailed, RuntimeCallFailed
from rkllm_twisted.methods.roots import Roots
from rkllm_twisted.testing.peers import Server
from rkllm_twisted.values import Capability
from tests.methods.descriptors import descriptors

pytestmark = pytest.mark.usefixtures("flat")


class RecordingBackend(ScriptedBackend):
    """Reads its files as a runtime does, can do more than the scripted one, and loads when the test says so."""

    capabilities = ScriptedBackend.capabilities | {Capability.LORA, Capability.PROMPT_CACHE}

    def __init__(self, clock):
        super().__init__(clock)
        self.read = []
        self.loading = None
        self.error = None
        self.failsIn = ""

    def open(self, path, what=""):
        if self.error is not None and what == self.failsIn:
            raise self.error(path)
        self.read.append(Path(path).read_text())

    def checkParam(self, param):
        self.open(param.model_path, "check")
        return succeed(None)

    def init(self, param):
        self.loading = Deferred()
        return self.loading.addCallback(lambda _: self.model(param))

    def model(self, param):
        self.open(param.model_path, "load")
        return RecordingModel(self)


class RecordingModel(ScriptedModel):
    capabilities = RecordingBackend.capabilities

    def __init__(self, backend):
        super().__init__(backend._clock, backend._script, 0, -1)
        self._backend = backend

    def loadLora(self, adapter):
        return succeed(self._backend.open(adapter.lora_adapter_path))

    def loadPromptCache(self, path):
        return succeed(self._backend.open(path))

    def releasePromptCache(self):
        return succeed(None)

    def run(self, input, inferParam, receiver, delivery):
        cache = inferParam.prompt_cache_params
        if cache is not None:
            if self._backend.error is not None:
                raise self._backend.error(cache.prompt_cache_path)
            Path(cache.prompt_cache_path).write_text("cache")
        return super().run(input, structs.replace(inferParam, prompt_cache_params=None), receiver, delivery)


class Rig:
    """A server with directories, and a peer."""

    def __init__(self, *directories):
        clock = Clock()
        self.backend = RecordingBackend(clock)
        self.server = Server(self.backend, clock, roots=Roots([str(one) for one in directories]))
        self.peer = self.server.connect()
        self.empty = descriptors()

    def opened(self):
        return len(set(descriptors()) - set(self.empty))

    def load(self, path):
        self.peer.send({"jsonrpc": "2.0", "id": 1, "method": "rkllm.init", "params": [{"model_path": str(path)}]})
        if self.backend.loading is not None and not self.backend.loading.called:
            self.backend.loading.callback(None)
        return self.peer.received()[-1]

    def close(self):
        assert self.server.runtime.shutDown().called
        assert not self.opened()


@pytest.fixture
def rig(place):
    rig = Rig(place / "allowed")
    yield rig
    rig.close()


def test_model_is_open_as_long_as_it_is_loaded(rig, place):
    assert rig.load(place / "allowed/model")["result"]["success"] is True
    assert rig.backend.read == ["good"] * 2
    assert rig.opened() == 1
    [status] = rig.peer.ask("server.status")
    assert status["result"]["model"] == "model"
    assert rig.load("below/model")["result"]["success"] is True
    assert rig.opened() == 1
    rig.peer.ask("rkllm.destroy")
    assert rig.opened() == 0


def test_model_elsewhere(rig, place):
    """W-CODES: -32007."""
    error = rig.load(place / "secret/model")["error"]
    assert error["code"] == -32007
    assert error["message"].startswith("not permitted: $.params[0].model_path: expected a path below")
    assert rig.backend.read == []


def test_model_that_is_missing(rig, place):
    error = rig.load(place / "allowed/nothing")["error"]
    assert (error["code"], error["data"]["reason"]) == (-32005, f"{place}/allowed/nothing: no such file or directory")


@pytest.mark.parametrize("where", ["check", "load"])
def test_model_that_fails_is_closed_and_has_its_own_name_in_the_error(rig, place, where):
    rig.backend.failsIn, rig.backend.error = where, lambda path: ModelLoadFailed(f"{path}: is none")
    error = rig.load(place / "allowed/model")["error"]
    assert error["message"] == f"model load failed: {place}/allowed/model: is none"
    assert error["data"]["reason"] == f"{place}/allowed/model: is none"
    assert rig.opened() == 0


def test_waiting_init_that_is_cancelled_is_closed(rig, place):
    for id in ("first", "second"):
        rig.peer.send({"jsonrpc": "2.0", "id": id, "method": "rkllm.init", "params": [{"model_path": "model"}]})
    assert rig.opened() == 2
    rig.peer.send({"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": "second"}})
    [last] = rig.peer.received()
    assert last["error"]["code"] == -32800
    assert rig.opened() == 1
    rig.backend.loading.callback(None)


def test_adapters(rig, place):
    rig.load("model")
    [answer] = rig.peer.ask("rkllm.load_lora", {"lora_adapter_path": "below/model", "lora_adapter_name": "a"})
    assert answer["result"]["success"] is True
    assert rig.opened() == 2
    path = f"{place}/secret/model"
    [answer] = rig.peer.ask("rkllm.load_lora", {"lora_adapter_path": path, "lora_adapter_name": "b"})
    assert answer["error"]["code"] == -32007
    rig.backend.error = lambda path: RuntimeCallFailed(f"{path} is none", function="rkllm_load_lora", status=-1)
    [answer] = rig.peer.ask("rkllm.load_lora", {"lora_adapter_path": "below/model", "lora_adapter_name": "b"})
    assert answer["error"]["message"] == "runtime call failed: below/model is none"
    assert rig.opened() == 2
    [answer] = rig.peer.ask("rkllm.load_lora", {"lora_adapter_path": "nothing", "lora_adapter_name": "b"})
    assert (answer["error"]["code"], answer["error"]["data"]["status"]) == (-32004, -1)


def test_one_prompt_cache_is_open_however_many_are_loaded(rig, place):
    rig.load("model")
    for _ in range(10):
        [answer] = rig.peer.ask("rkllm.load_prompt_cache", f"{place}/allowed/below/model")
        assert answer["result"]["cache_path"] == f"{place}/allowed/below/model"
    assert rig.opened() == 2
    rig.peer.ask("rkllm.release_prompt_cache")
    assert rig.opened() == 1
    [answer] = rig.peer.ask("rkllm.load_prompt_cache", "/etc/passwd")
    assert answer["error"]["code"] == -32007


def saving(path):
    return {"prompt_cache_params": {"save_prompt_cache": 1, "prompt_cache_path": str(path)}}


def test_cache_is_saved_below(rig, place):
    rig.load("model")
    rig.peer.ask("rkllm.run", {"prompt_input": "one"}, saving("below/cache"))
    assert (place / "allowed/below/cache").read_text() == "cache"
    assert rig.opened() == 1
    (place / "allowed/out").symlink_to(place / "secret/model")
    for path in (place / "secret/cache", "../secret/cache", "out", ""):
        [error] = rig.peer.ask("rkllm.run", {"prompt_input": "one"}, saving(path))
        assert error["error"]["code"] == -32007
        assert "prompt_cache_path" in error["error"]["message"]
    [error] = rig.peer.ask("rkllm.run", {"prompt_input": "one"}, saving("nothing/cache"))
    assert error["error"]["message"].endswith("the prompt cache cannot be saved: no such file or directory")
    assert os.listdir(place / "secret") == ["model"]
    assert (place / "secret/model").read_text() == "secret"
    assert rig.opened() == 1


def test_cache_that_cannot_be_saved_has_its_own_name_in_the_error(rig, place):
    rig.load("model")
    rig.backend.error = lambda path: RuntimeCallFailed(f"{path}: no space", function="rkllm_run", status=-1)
    [error] = rig.peer.ask("rkllm.run", {"prompt_input": "one"}, saving("below/cache"))
    assert error["error"]["message"] == "runtime call failed: below/cache: no space"
    assert rig.opened() == 1

"""The contract over a backend in a child process: llama.cpp, with a tiny model."""

import pytest
from msgspec import structs
from twisted.internet import reactor

from rkllm_twisted.backends.isolated.backend import IsolatedBackend
from rkllm_twisted.backends.isolated.limits import Limits
from rkllm_twisted.backends.llamacpp import makeBackend, unusable
from rkllm_twisted.testing.contract import BackendContract
from tests.tiny_model import writeModel


@pytest.fixture(scope="class", autouse=True)
def tinyModel(request, tmp_path_factory):
    request.cls.PATH = writeModel(tmp_path_factory.mktemp("contract") / "tiny.gguf", style="cycle")


@pytest.mark.skipif(unusable() is not None, reason=f"llama.cpp cannot run here: {unusable()}")
class TestIsolated(BackendContract):
    LONG_PROMPT = "go on"

    def makeBackend(self):
        return IsolatedBackend(makeBackend({"threads": "1"}), "llamacpp:threads=1", reactor, Limits())

    def makeParam(self, backend):
        limits = {"max_context_len": 512, "max_new_tokens": 300}
        greedy = {"top_k": 1, "repeat_penalty": 1.0}
        return structs.replace(backend.createDefaultParam(), model_path=str(self.PATH), **limits, **greedy)

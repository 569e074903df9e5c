"""The contract over llama.cpp, with a tiny model."""

import pytest
from msgspec import structs

from rkllm_twisted.backends.llamacpp import makeBackend, unusable
from rkllm_twisted.testing.contract import BackendContract
from tests.tiny_model import writeModel


@pytest.fixture(scope="class", autouse=True)
def tinyModel(request, tmp_path_factory):
    request.cls.PATH = writeModel(tmp_path_factory.mktemp("contract") / "tiny.gguf", style="cycle")


@pytest.mark.skipif(unusable() is not None, reason=f"llama.cpp cannot run here: {unusable()}")
class TestLlamacpp(BackendContract):
    LONG_PROMPT = "go on"

    def makeBackend(self):
        return makeBackend({"threads": "1"})

    def makeParam(self, backend):
        limits = {"max_context_len": 512, "max_new_tokens": 300}
        greedy = {"top_k": 1, "repeat_penalty": 1.0}
        return structs.replace(backend.createDefaultParam(), model_path=str(self.PATH), **limits, **greedy)

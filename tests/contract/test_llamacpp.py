"""The contract over llama.cpp, with tiny models: one whose text is known, and one in which every token counts."""

import pytest
from gguf import GGUFReader
from msgspec import structs

from rkllm_twisted.backends.llamacpp import makeBackend, unusable
from rkllm_twisted.testing.contract import BackendContract
from tests.tiny_model import tokenOf, writeAdapter, writeModel

needsLlamacpp = pytest.mark.skipif(unusable() is not None, reason=f"llama.cpp cannot run here: {unusable()}")


@pytest.fixture(scope="class", autouse=True)
def tinyModel(request, tmp_path_factory):
    request.cls.PATH = writeModel(tmp_path_factory.mktemp("contract") / "tiny.gguf", style=request.cls.STYLE)


class OverLlamacpp(BackendContract):
    PROMPT = "you can sum up 8 of 9 "
    LONG_PROMPT = "go on"

    def makeBackend(self):
        return makeBackend({"threads": "1"})

    def makeParam(self, backend):
        limits = {"max_context_len": 512, "max_new_tokens": 300}
        greedy = {"top_k": 1, "repeat_penalty": 1.0}
        return structs.replace(backend.createDefaultParam(), model_path=str(self.PATH), **limits, **greedy)

    def tokensOf(self, text):
        return [tokenOf(byte) for byte in text.encode()]  # PROMPT has none of the pairs that are one token

    def embeddingRows(self, tokens):
        [table] = [each for each in GGUFReader(self.PATH).tensors if each.name == "token_embd.weight"]
        return table.data[tokens].ravel().tolist()

    def makeAdapter(self, directory):
        return str(writeAdapter(directory / "adapter.gguf", style=self.STYLE))


@needsLlamacpp
class TestKnownText(OverLlamacpp):
    """What it says depends on the last token alone."""

    STYLE = "cycle"


@needsLlamacpp
class TestNoise(OverLlamacpp):
    """What it says depends on all that came before."""

    STYLE = "random"

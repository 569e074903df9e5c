"""The contract over the NPU's backend, on the stand-in of every family of the vendor's library."""

from __future__ import annotations

import re

import pytest
from msgspec import structs

from rkllm_twisted.backends.rkllm import makeBackend
from rkllm_twisted.testing.contract import BackendContract
from rkllm_twisted.testing.contract.subject import asynchronous, tokenInput
from rkllm_twisted.values import RKLLMCrossAttnParam, RKLLMImage, RKLLMMultiModalInput
from tests.native.driving import idOf
from tests.standins import needsCompiler, overheard, standin

WIDTH = 8
"""Of an embedding of the stand-in."""
HEADS = 2 * 2 * 4
"""Layers, heads and head size of the stand-in: so many numbers has the encoder's output for a token."""


@pytest.fixture(autouse=True)
def library(request, tmp_path, monkeypatch):
    """The stand-in, which fails the test if the backend gives it something that it must not."""
    for library in overheard(tmp_path, monkeypatch):
        request.cls.library = library
        yield


def wordsOf(text):
    """The texts of the tokens of a text."""
    return re.findall(r"\s*\S+", text)


class RkllmContract(BackendContract):
    FAMILY = ""
    # The library tells neither its vocabulary nor its width before a run, and the format of its files is its own.
    CANNOT_TELL = frozenset({"token ids", "embedding width", "prompt cache"})

    def makeBackend(self):
        return makeBackend({"library": standin(self.FAMILY)})

    def makeParam(self, backend):
        path = self.library.writeModel("words.rkllm", words=wordsOf(self.PROMPT))
        return structs.replace(backend.createDefaultParam(), model_path=path)

    def tokensOf(self, text):
        return list(map(idOf, wordsOf(text)))

    def embeddingRows(self, tokens):
        return [token + column / 64 for token in tokens for column in range(WIDTH)]

    def makeAdapter(self, directory):
        (directory / "adapter.rkllm").write_text("any file is one")
        return str(directory / "adapter.rkllm")

    def crossAttention(self):
        numbers = [0.5] * (3 * HEADS)
        return RKLLMCrossAttnParam(
            encoder_k_cache=numbers,
            encoder_v_cache=numbers,
            encoder_mask=[1.0] * 3,
            encoder_pos=[0, 1, 2],
            num_tokens=3,
        )


class Nested(RkllmContract):
    """Images are a block of their own, from 1.3 on."""

    def multimodalInput(self):
        flat = super().multimodalInput()
        image = RKLLMImage(image_embed=flat.image_embed, n_image_tokens=flat.n_image_tokens, n_image=1)
        return RKLLMMultiModalInput(prompt=flat.prompt, image=image)


class Unmeasured(RkllmContract):
    """A release that gives no figures: how many tokens a text has, only the library knows then."""

    def prefilled(self, receiver):
        event = self.library.events("prefill")[-1]
        return event["tokens"] - event["reused"]

    @asynchronous
    async def test_figures_count_the_tokens(self, model):
        receiver = await self.answer(model)
        assert receiver.perf.prefill_tokens == 0
        assert receiver.perf.generate_tokens == len(receiver.results) - 1
        assert receiver.perf.memory_usage_mb > 1
        assert (await self.answer(model, tokenInput([5, 6, 7]))).perf.prefill_tokens == 3


@needsCompiler
class TestRkllm_1_1(Unmeasured):
    FAMILY = "1.1"


@needsCompiler
class TestRkllm_1_2_0(Unmeasured):
    FAMILY = "1.2.0"


@needsCompiler
class TestRkllm_1_2_1b1(Unmeasured):
    FAMILY = "1.2.1b1"


@needsCompiler
class TestRkllm_1_2_1(RkllmContract):
    FAMILY = "1.2.1"


@needsCompiler
class TestRkllm_1_3(Nested):
    FAMILY = "1.3"


@needsCompiler
class TestRkllm_1_3_1(Nested):
    FAMILY = "1.3.1"

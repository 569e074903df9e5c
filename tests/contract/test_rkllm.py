"""The contract over the NPU's backend, on the stand-in of every family of the vendor's library."""

from __future__ import annotations

import pytest
from msgspec import structs

from rkllm_twisted.backends.rkllm import makeBackend
from rkllm_twisted.testing.contract import BackendContract, asynchronous
from rkllm_twisted.testing.receivers import RecordingReceiver
from rkllm_twisted.values import Delivery, InputType, RKLLMInferParam, RKLLMInput, RKLLMTokenInput
from tests.standins import needsCompiler, overheard, standin


@pytest.fixture(autouse=True)
def library(request, tmp_path, monkeypatch):
    """The stand-in, which fails the test if the backend gives it something that it must not."""
    for library in overheard(tmp_path, monkeypatch):
        request.cls.library = library
        yield


class RkllmContract(BackendContract):
    FAMILY = ""

    def makeBackend(self):
        return makeBackend({"library": standin(self.FAMILY)})

    def makeParam(self, backend):
        return structs.replace(backend.createDefaultParam(), model_path=self.library.model)


class Unmeasured(RkllmContract):
    """A release that gives no figures: how many tokens a text has, nobody knows then."""

    @asynchronous
    async def test_figures_count_the_tokens(self, model):
        receiver, _ = self.start(model)
        await receiver.ended
        assert receiver.perf.prefill_tokens == 0
        assert receiver.perf.generate_tokens == len(receiver.results) - 1
        assert receiver.perf.memory_usage_mb > 1
        counted = RecordingReceiver()
        ids = RKLLMTokenInput(input_ids=[5, 6, 7], n_tokens=3)
        input = RKLLMInput(input_type=InputType.RKLLM_INPUT_TOKEN, token_input=ids)
        model.run(input, RKLLMInferParam(), counted, Delivery())
        await counted.ended
        assert counted.perf.prefill_tokens == 3


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
class TestRkllm_1_3(RkllmContract):
    FAMILY = "1.3"


@needsCompiler
class TestRkllm_1_3_1(RkllmContract):
    FAMILY = "1.3.1"

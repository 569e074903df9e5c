"""The contract suite: one test for each clause of `rkllm_twisted.interfaces`, for any backend.

To run it over a backend, subclass `BackendContract` in a test module, say how to make the backend, and run pytest with
pytest-twisted::

    class TestEcho(BackendContract):
        def makeBackend(self):
            return EchoBackend()

        def makeParam(self, backend):
            return msgspec.structs.replace(backend.createDefaultParam(), model_path="echo")
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import pytest_twisted
from msgspec import structs
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from rkllm_twisted.errors import ModelBusy, ModelLoadFailed, ModelNotInitialized, NotSupported
from rkllm_twisted.interfaces import IGeneration, IModel, IModelBackend, IResultReceiver, IRuntime
from rkllm_twisted.testing.receivers import RecordingReceiver
from rkllm_twisted.values import (
    CallState,
    Capability,
    Delivery,
    EncodedResult,
    InferMode,
    InputType,
    RKLLMCrossAttnParam,
    RKLLMEmbedInput,
    RKLLMInferParam,
    RKLLMInput,
    RKLLMLoraAdapter,
    RKLLMLoraParam,
    RKLLMMultiModalInput,
    RKLLMParam,
    RKLLMPromptCacheParam,
    RKLLMResult,
    RKLLMSamplingParam,
    RKLLMTokenInput,
)

asynchronous = pytest_twisted.ensureDeferred


class BackendContract:
    """Subclasses define `makeBackend` and `makeParam`, and the other attributes where theirs differ."""

    PROMPT = "one two three four five six seven eight"
    """A prompt whose answer has at least five tokens."""
    LONG_PROMPT = "again and " * 150
    """A prompt whose answer has at least 200 tokens, or would have."""

    def makeBackend(self) -> IRuntime | IModelBackend:
        """The backend under test, or a runtime that is adapted to one."""
        raise NotImplementedError

    def makeParam(self, backend: IModelBackend) -> RKLLMParam:
        """Parameters that load a model."""
        raise NotImplementedError

    def badParam(self, backend: IModelBackend) -> RKLLMParam:
        """Parameters whose ``model_path`` cannot be loaded."""
        return structs.replace(self.makeParam(backend), model_path="")

    @pytest.fixture
    def backend(self) -> IModelBackend:
        """The backend, adapted."""
        backend: IModelBackend = IModelBackend(self.makeBackend())
        return backend

    @pytest_twisted.async_yield_fixture
    async def model(self, backend: IModelBackend) -> Any:
        """A loaded model, destroyed afterwards."""
        model = await backend.init(self.makeParam(backend))
        yield model
        await model.destroy()

    def start(
        self, model: IModel, prompt: str | None = None, receiver: IResultReceiver | None = None, **inferParam: Any
    ) -> tuple[RecordingReceiver, IGeneration]:
        """Start a generation of `PROMPT`, or of another prompt."""
        chosen: Any = receiver or RecordingReceiver()
        input = RKLLMInput(prompt_input=self.PROMPT if prompt is None else prompt)
        return chosen, model.run(input, RKLLMInferParam(**inferParam), chosen, Delivery())

    # The objects

    @asynchronous
    async def test_objects_provide_their_interfaces(self, backend: IModelBackend, model: IModel) -> None:
        verifyObject(IModelBackend, backend)
        verifyObject(IModel, model)
        receiver, generation = self.start(model)
        verifyObject(IGeneration, generation)
        await receiver.ended

    def test_default_parameters_are_whole(self, backend: IModelBackend) -> None:
        param = backend.createDefaultParam()
        assert param.model_path == ""
        assert param.max_context_len > 0
        assert param.extend_param.n_batch == 1

    @asynchronous
    async def test_parameters_that_load_pass_the_check(self, backend: IModelBackend) -> None:
        await backend.checkParam(self.makeParam(backend))

    @asynchronous
    async def test_model_that_cannot_be_loaded_is_refused_and_the_next_loads(self, backend: IModelBackend) -> None:
        with pytest.raises(ModelLoadFailed) as refused:
            await backend.checkParam(self.badParam(backend))
        assert refused.value.detail
        with pytest.raises(ModelLoadFailed):
            await backend.init(self.badParam(backend))
        model = await backend.init(self.makeParam(backend))
        await model.destroy()

    # A generation

    @asynchronous
    async def test_generation_gives_results_then_one_ending(self, model: IModel) -> None:
        receiver, _ = self.start(model)
        await receiver.ended
        assert len(receiver.results) >= 5
        assert receiver.text
        assert receiver.reason in ("stop", "length", None)

    @asynchronous
    async def test_nothing_comes_from_inside_run(self, model: IModel) -> None:
        receiver, _ = self.start(model)
        assert not receiver.results
        assert not receiver.endings
        await receiver.ended

    @asynchronous
    async def test_figures_count_the_tokens(self, model: IModel) -> None:
        receiver, _ = self.start(model)
        await receiver.ended
        assert receiver.perf is not None
        assert receiver.perf.prefill_tokens > 0
        tokens = [result for result in receiver.results if result.token_id >= 0]
        assert receiver.perf.generate_tokens in (len(tokens) - 1, len(tokens))  # an end token has no result of its own

    @asynchronous
    async def test_generations_follow_one_another(self, model: IModel) -> None:
        for _ in range(3):
            receiver, _ = self.start(model)
            await receiver.ended

    @asynchronous
    async def test_results_are_copies(self, model: IModel) -> None:
        first, _ = self.start(model)
        await first.ended
        before = [structs.asdict(result) for result in first.results]
        second, _ = self.start(model, "something else entirely, and longer than that")
        await second.ended
        assert [structs.asdict(result) for result in first.results] == before

    @asynchronous
    async def test_token_limit_of_a_run(self, model: IModel) -> None:
        self.needs(model, Capability.MAX_NEW_TOKENS_PER_RUN)
        receiver, _ = self.start(model, max_new_tokens=2)
        await receiver.ended
        assert len([result for result in receiver.results if result.token_id >= 0]) == 2
        assert receiver.reason == "length"

    # Clause 1

    @asynchronous
    async def test_second_run_is_busy_and_does_not_disturb_the_first(self, model: IModel) -> None:
        receiver, _ = self.start(model)
        assert model.isRunning()
        with pytest.raises(ModelBusy):
            self.start(model)
        await receiver.ended
        assert not model.isRunning()

    @asynchronous
    async def test_next_run_may_start_in_the_ending_of_the_last(self, model: IModel) -> None:
        first, _ = self.start(model)
        second, _ = await first.ended.addCallback(lambda _: self.start(model))
        await second.ended
        assert second.endings == 1

    # Clause 2

    @asynchronous
    async def test_abort_ends_it_once(self, model: IModel) -> None:
        receiver, generation = self.start(model, self.LONG_PROMPT)
        await receiver.firstResult
        generation.abort()
        generation.abort()
        count = len(receiver.results)
        await receiver.ended
        assert receiver.reason == "abort"
        assert len(receiver.results) == count
        generation.abort()

    @asynchronous
    async def test_abort_before_the_first_result(self, model: IModel) -> None:
        receiver, generation = self.start(model, self.LONG_PROMPT)
        generation.abort()
        await receiver.ended
        assert receiver.reason == "abort"
        assert not receiver.results

    @asynchronous
    async def test_abort_does_not_touch_the_next_run(self, model: IModel) -> None:
        first, generation = self.start(model, self.LONG_PROMPT)
        generation.abort()
        await first.ended
        second, _ = self.start(model)
        await second.ended
        assert second.results
        assert second.reason != "abort"

    @asynchronous
    async def test_abort_of_the_model(self, model: IModel) -> None:
        receiver, _ = self.start(model, self.LONG_PROMPT)
        model.abort()
        await receiver.ended
        assert receiver.reason == "abort"

    @asynchronous
    async def test_abort_with_nothing_running_does_not_touch_the_next_run(self, model: IModel) -> None:
        model.abort()
        first, generation = self.start(model)
        await first.ended
        generation.abort()
        second, _ = self.start(model)
        await second.ended
        assert first.reason != "abort"
        assert second.reason != "abort"

    # Clause 5

    @asynchronous
    async def test_failing_receiver_costs_no_ending(self, model: IModel, flushErrors: Any) -> None:
        receiver = FailingReceiver()
        self.start(model, receiver=receiver)
        await receiver.ended
        assert receiver.count >= 5
        assert len(flushErrors(ZeroDivisionError)) == receiver.count

    # Clause 6

    @asynchronous
    async def test_destroy_during_a_run(self, backend: IModelBackend) -> None:
        model = await backend.init(self.makeParam(backend))
        receiver, _ = self.start(model, self.LONG_PROMPT)
        destroyed = model.destroy()
        again = model.destroy()
        await destroyed
        await again
        assert receiver.endings == 1
        with pytest.raises(ModelNotInitialized):
            self.start(model)
        await receiver.ended
        assert receiver.reason == "abort"

    # Clause 7

    RUNS: ClassVar[dict[Capability, tuple[dict[str, Any], dict[str, Any]]]] = {
        Capability.TOKEN_INPUT: (
            {"input_type": InputType.RKLLM_INPUT_TOKEN, "token_input": RKLLMTokenInput(input_ids=[5], n_tokens=1)},
            {},
        ),
        Capability.EMBED_INPUT: (
            {"input_type": InputType.RKLLM_INPUT_EMBED, "embed_input": RKLLMEmbedInput(embed=[0.5], n_tokens=1)},
            {},
        ),
        Capability.MULTIMODAL_INPUT: (
            {
                "input_type": InputType.RKLLM_INPUT_MULTIMODAL,
                "multimodal_input": RKLLMMultiModalInput(prompt="<image>", image_embed=[0.5], n_image_tokens=1),
            },
            {},
        ),
        Capability.GET_LOGITS: ({}, {"mode": InferMode.RKLLM_INFER_GET_LOGITS}),
        Capability.GET_LAST_HIDDEN_LAYER: ({}, {"mode": InferMode.RKLLM_INFER_GET_LAST_HIDDEN_LAYER}),
        Capability.KEEP_HISTORY: ({}, {"keep_history": 1}),
        Capability.SAMPLING_PER_RUN: ({}, {"sampling_params": RKLLMSamplingParam()}),
        Capability.LORA: ({}, {"lora_params": RKLLMLoraParam(lora_adapter_name="adapter")}),
        Capability.PROMPT_CACHE: (
            {},
            {"prompt_cache_params": RKLLMPromptCacheParam(save_prompt_cache=1, prompt_cache_path="cache")},
        ),
    }
    """For each capability that a run may need, an input and parameters that need it."""

    @asynchronous
    async def test_run_that_needs_more_is_refused_by_name(self, model: IModel) -> None:
        for capability in set(self.RUNS) - model.capabilities:
            input, inferParam = self.RUNS[capability]
            whole = {"prompt_input": self.PROMPT, **input}
            with pytest.raises(NotSupported) as refused:
                model.run(RKLLMInput(**whole), RKLLMInferParam(**inferParam), RecordingReceiver(), Delivery())
            assert refused.value.data == {"needs": capability.value}
        assert not model.isRunning()

    @asynchronous
    async def test_function_that_is_lacking_is_refused_by_name(self, model: IModel) -> None:
        adapter = RKLLMLoraAdapter(lora_adapter_path="adapter", lora_adapter_name="adapter")
        cross = RKLLMCrossAttnParam(
            encoder_k_cache=[], encoder_v_cache=[], encoder_mask=[], encoder_pos=[], num_tokens=0
        )
        functions: list[tuple[Capability, Callable[..., Deferred[Any]], tuple[Any, ...]]] = [
            (Capability.LORA, model.loadLora, (adapter,)),
            (Capability.PROMPT_CACHE, model.loadPromptCache, ("cache",)),
            (Capability.PROMPT_CACHE, model.releasePromptCache, ()),
            (Capability.CLEAR_KV_CACHE, model.clearKVCache, (False, None)),
            (Capability.KV_CACHE_SIZE, model.getKVCacheSize, ()),
            (Capability.CHAT_TEMPLATE, model.setChatTemplate, ("", "", "")),
            (Capability.FUNCTION_TOOLS, model.setFunctionTools, ("", "[]", "")),
            (Capability.CROSS_ATTENTION, model.setCrossAttnParams, (cross,)),
        ]
        for capability, function, arguments in functions:
            if capability not in model.capabilities:
                with pytest.raises(NotSupported) as refused:
                    await maybeDeferred(function, *arguments)
                assert refused.value.data == {"needs": capability.value}

    def needs(self, model: IModel, capability: Capability) -> None:
        """Skip the test where the backend says that it cannot do this."""
        if capability not in model.capabilities:
            pytest.skip(f"this backend has no {capability.value}; that it says so is tested above")


@implementer(IResultReceiver)
class FailingReceiver:
    """A receiver with a defect."""

    def __init__(self) -> None:
        self.count = 0
        self.ended: Deferred[None] = Deferred()

    def resultReceived(self, result: RKLLMResult | EncodedResult, state: CallState) -> None:
        """Fail."""
        self.count += 1
        raise ZeroDivisionError("the defect of this receiver")

    def generationFinished(self, perf: object, reason: str | None) -> None:
        """Tell the test."""
        self.ended.callback(None)

    def generationFailed(self, failure: Failure) -> None:
        """Tell the test."""
        self.ended.errback(failure)

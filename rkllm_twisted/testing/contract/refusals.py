"""Clauses of what a backend lacks: it is refused by name, never ignored. And cross attention, which most lack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from msgspec import structs
from twisted.internet.defer import Deferred, maybeDeferred

from rkllm_twisted.errors import NotSupported
from rkllm_twisted.interfaces import IModel, IModelBackend
from rkllm_twisted.testing.contract.subject import Subject, asynchronous
from rkllm_twisted.testing.receivers import RecordingReceiver
from rkllm_twisted.values import (
    Capability,
    Delivery,
    InferMode,
    InputType,
    RKLLMCrossAttnParam,
    RKLLMEmbedInput,
    RKLLMInferParam,
    RKLLMInput,
    RKLLMLoraAdapter,
    RKLLMLoraParam,
    RKLLMMultiModalInput,
    RKLLMPromptCacheParam,
    RKLLMSamplingParam,
    RKLLMTokenInput,
)


class Refusals(Subject):
    """What is refused."""

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

    EXTENDED: ClassVar[dict[Capability, dict[str, int]]] = {
        Capability.BATCHES: {"n_batch": 2},
        Capability.CROSS_ATTENTION: {"use_cross_attn": 1},
    }
    """For each capability that a model may need, the field of ``extend_param`` that needs it."""

    @asynchronous
    async def test_parameter_that_needs_more_is_refused_by_name(self, backend: IModelBackend) -> None:
        param = self.makeParam(backend)
        for capability in set(self.EXTENDED) - backend.capabilities:
            extended = structs.replace(param.extend_param, **self.EXTENDED[capability])
            for function in (backend.checkParam, backend.init):
                with pytest.raises(NotSupported) as refused:
                    await maybeDeferred(function, structs.replace(param, extend_param=extended))
                assert refused.value.data == {"needs": capability.value}

    @asynchronous
    async def test_cross_attention(self, backend: IModelBackend) -> None:
        self.needs(backend, Capability.CROSS_ATTENTION)
        model = await backend.init(self.briefParam(backend, use_cross_attn=1))
        await model.setCrossAttnParams(self.crossAttention())
        assert (await self.answer(model)).tokens
        await model.destroy()

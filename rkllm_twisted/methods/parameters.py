"""The parameters of ``rkllm.*``: C's parameters after the handle, in C's order and under C's names."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from rkllm_twisted.values import (
    Delivery,
    Flag,
    RKLLMCrossAttnParam,
    RKLLMInferParam,
    RKLLMInput,
    RKLLMLoraAdapter,
    RKLLMParam,
    Size,
)


class InitParams(Struct, frozen=True):
    """Of ``rkllm.init``."""

    param: RKLLMParam
    """Partial: what is left out is the runtime's default."""
    callback: None = None


class RunParams(Struct, frozen=True):
    """Of ``rkllm.run`` and ``rkllm.run_async``."""

    rkllm_input: RKLLMInput
    rkllm_infer_params: RKLLMInferParam | None = None
    userdata: Delivery | None = None
    """How this call is delivered (W-OPTIONS)."""


class LoraParams(Struct, frozen=True):
    """Of ``rkllm.load_lora``."""

    lora_adapter: RKLLMLoraAdapter


class PromptCacheParams(Struct, frozen=True):
    """Of ``rkllm.load_prompt_cache``."""

    prompt_cache_path: str


class ClearParams(Struct, frozen=True):
    """Of ``rkllm.clear_kv_cache``. The ranges begin at ``start_pos`` and end before ``end_pos``, one for each batch."""

    keep_system_prompt: Flag = 0
    start_pos: list[Size] | None = None
    end_pos: list[Size] | None = None


class ChatTemplateParams(Struct, frozen=True):
    """Of ``rkllm.set_chat_template``. Three empty strings send prompts as they are."""

    system_prompt: str = ""
    prompt_prefix: str = ""
    prompt_postfix: str = ""


class FunctionToolsParams(Struct, frozen=True):
    """Of ``rkllm.set_function_tools``. ``tools`` is a JSON text, or the JSON itself."""

    system_prompt: str = ""
    tools: str | list[Any] | dict[str, Any] = ""
    tool_response_str: str = ""


class CrossAttentionParams(Struct, frozen=True):
    """Of ``rkllm.set_cross_attn_params``."""

    cross_attn_params: RKLLMCrossAttnParam

"""The parameters of ``rkllm.*``: C's parameters after the handle, in C's order and under C's names."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from rkllm_twisted.ranges import Flag, Path, Size, Text
from rkllm_twisted.values import (
    DeliveryOptions,
    RKLLMCrossAttnParam,
    RKLLMInferParam,
    RKLLMInput,
    RKLLMLoraAdapter,
    RKLLMParam,
)

Positions = Annotated[list[Size], Meta(min_length=1, max_length=100)]
"""One for each batch."""


class InitParams(Struct, frozen=True):
    """Of ``rkllm.init``."""

    param: RKLLMParam
    """What to load, and how to sample."""
    callback: Any = None
    """Must be null: the callbacks of a runtime are C functions."""


class RunParams(Struct, frozen=True):
    """Of ``rkllm.run`` and ``rkllm.run_async``."""

    rkllm_input: RKLLMInput | Annotated[list[RKLLMInput], Meta(min_length=1, max_length=100)]
    """What to answer: an array of ``n_batch`` inputs where that is above 1."""
    rkllm_infer_params: RKLLMInferParam | None = None
    """How to infer."""
    userdata: DeliveryOptions | None = None
    """How this call is delivered (W-OPTIONS)."""


class LoraParams(Struct, frozen=True):
    """Of ``rkllm.load_lora``."""

    lora_adapter: RKLLMLoraAdapter
    """What to load, and under which name."""


class PromptCacheParams(Struct, frozen=True):
    """Of ``rkllm.load_prompt_cache``."""

    prompt_cache_path: Annotated[Path, Meta(min_length=1)]
    """The file, on the daemon's machine."""


class ClearParams(Struct, frozen=True):
    """Of ``rkllm.clear_kv_cache``."""

    keep_system_prompt: Flag = 0
    """1 keeps the system prompt, if there is one; without effect on ranges."""
    start_pos: Positions | None = None
    """Where the ranges to clear begin, in tokens, one for each batch; null clears everything."""
    end_pos: Positions | None = None
    """The tokens that the ranges end before."""


class ChatTemplateParams(Struct, frozen=True):
    """Of ``rkllm.set_chat_template``. Three empty strings send prompts as they are."""

    system_prompt: Text = ""
    """What comes before everything."""
    prompt_prefix: Text = ""
    """What comes before each prompt."""
    prompt_postfix: Text = ""
    """What comes after each prompt."""


class FunctionToolsParams(Struct, frozen=True):
    """Of ``rkllm.set_function_tools``."""

    system_prompt: Text = ""
    """Takes the place of the model's system prompt."""
    tools: Text | list[Any] | dict[str, Any] = ""
    """Descriptions of the functions: a JSON text, or the JSON itself."""
    tool_response_str: Text = ""
    """The text that marks the result of a function in the prompt."""


class CrossAttentionParams(Struct, frozen=True):
    """Of ``rkllm.set_cross_attn_params``."""

    cross_attn_params: RKLLMCrossAttnParam
    """The encoder's output."""

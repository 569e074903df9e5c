"""What a backend may lack, and what a run or a model needs of it."""

from __future__ import annotations

from enum import Enum

from rkllm_twisted.errors import NotSupported
from rkllm_twisted.values.enums import InferMode, InputType
from rkllm_twisted.values.inputs import RKLLMInput
from rkllm_twisted.values.parameters import RKLLMInferParam, RKLLMParam


class Capability(str, Enum):
    """What a backend may or may not be able to do; the wire's ``needs`` field holds these names."""

    PROMPT_INPUT = "prompt_input"
    TOKEN_INPUT = "token_input"
    EMBED_INPUT = "embed_input"
    MULTIMODAL_INPUT = "multimodal_input"
    GET_LOGITS = "RKLLM_INFER_GET_LOGITS"
    GET_LAST_HIDDEN_LAYER = "RKLLM_INFER_GET_LAST_HIDDEN_LAYER"
    KEEP_HISTORY = "keep_history"
    SAMPLING_PER_RUN = "sampling_params"
    MAX_NEW_TOKENS_PER_RUN = "max_new_tokens"
    LORA = "load_lora"
    PROMPT_CACHE = "load_prompt_cache"
    CLEAR_KV_CACHE = "clear_kv_cache"
    KV_CACHE_SIZE = "get_kv_cache_size"
    CHAT_TEMPLATE = "set_chat_template"
    FUNCTION_TOOLS = "set_function_tools"
    CROSS_ATTENTION = "set_cross_attn_params"
    BATCHES = "n_batch"


NEEDED_BY = {
    InputType.RKLLM_INPUT_PROMPT: Capability.PROMPT_INPUT,
    InputType.RKLLM_INPUT_TOKEN: Capability.TOKEN_INPUT,
    InputType.RKLLM_INPUT_EMBED: Capability.EMBED_INPUT,
    InputType.RKLLM_INPUT_MULTIMODAL: Capability.MULTIMODAL_INPUT,
}
"""What each type of input needs a backend to be capable of."""


def needs(input: RKLLMInput, inferParam: RKLLMInferParam) -> frozenset[Capability]:
    """What a backend must be capable of to run this.

    Args:
        input: The input of the run.
        inferParam: How it infers.

    Returns:
        The capabilities, none for what every backend must do.
    """
    asked = {
        Capability.GET_LOGITS: inferParam.mode is InferMode.RKLLM_INFER_GET_LOGITS,
        Capability.GET_LAST_HIDDEN_LAYER: inferParam.mode is InferMode.RKLLM_INFER_GET_LAST_HIDDEN_LAYER,
        Capability.LORA: inferParam.lora_params is not None,
        Capability.PROMPT_CACHE: inferParam.prompt_cache_params is not None
        and bool(inferParam.prompt_cache_params.save_prompt_cache),
        Capability.SAMPLING_PER_RUN: inferParam.sampling_params is not None,
        Capability.KEEP_HISTORY: bool(inferParam.keep_history),
        Capability.MAX_NEW_TOKENS_PER_RUN: inferParam.max_new_tokens > 0,
    }
    return frozenset({NEEDED_BY[input.input_type], *(capability for capability, is_asked in asked.items() if is_asked)})


def refuseParam(param: RKLLMParam, capabilities: frozenset[Capability]) -> None:
    """Raise NotSupported if a model of these parameters needs more than the capabilities."""
    asked = {
        Capability.BATCHES: param.extend_param.n_batch > 1,
        Capability.CROSS_ATTENTION: bool(param.extend_param.use_cross_attn),
    }
    for capability, isAsked in asked.items():
        if isAsked and capability not in capabilities:
            raise NotSupported(needs=capability.value)


def refuseUnsupported(
    inputs: list[RKLLMInput], inferParam: RKLLMInferParam, capabilities: frozenset[Capability]
) -> None:
    """Raise NotSupported if a run of these inputs needs more than the capabilities."""
    needed = {capability for input in inputs for capability in needs(input, inferParam)}
    lacking = (needed | ({Capability.BATCHES} if len(inputs) > 1 else set())) - capabilities
    if lacking:
        raise NotSupported(needs=", ".join(sorted(capability.value for capability in lacking)))

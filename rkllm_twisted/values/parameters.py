"""How a model is loaded and set up, and how a run infers.

Field meanings: manual of RKLLM 1.3.0, sections 3.2.2 and 3.2.3.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from rkllm_twisted.ranges import MAX_FLOAT, Count, Flag, Float, Int32, Name, Path, Size, Text, UInt32
from rkllm_twisted.values.base import Value
from rkllm_twisted.values.enums import InferMode

TopP = Annotated[float, Meta(gt=0, le=1)]
Temperature = Annotated[float, Meta(ge=0, le=MAX_FLOAT)]
RepeatPenalty = Annotated[float, Meta(gt=0, le=MAX_FLOAT)]
FrequencyPenalty = Annotated[float, Meta(ge=-2, le=2)]
Mirostat = Annotated[int, Meta(ge=0, le=2)]


class RKLLMExtendParam(Value, frozen=True):
    """The extended parameters of `RKLLMParam`."""

    base_domain_id: Int32 = 0
    """The NPU's memory domain; each holds 4 GB."""
    embed_flash: Flag = 0
    """1 reads the vocabulary embedding from flash instead of memory."""
    enabled_cpus_num: Annotated[int, Meta(ge=1, le=8)] = 4
    """How many CPU cores ``enabled_cpus_mask`` names."""
    enabled_cpus_mask: UInt32 = 0
    """A sum of ``CPU_MASKS``, as many as ``enabled_cpus_num`` says; 0 names none."""
    n_batch: Annotated[int, Meta(ge=1, le=100)] = 1
    """How many inputs one run takes; the manual recommends 8 at most."""
    use_cross_attn: Flag = 0
    """1 enables cross attention."""
    reserved: None = None
    """The reserved bytes of C."""


class RKLLMParam(Value, frozen=True):
    """What a model is loaded with. ``RKLLMParam`` of ``rkllm.h``."""

    model_path: Path = ""
    """A model file on the daemon's machine, or a short name of the backend's own."""
    max_context_len: Size = 0
    """Size of the KV cache in tokens, prompt and answer together; 0 is the backend's own choice."""
    max_new_tokens: Annotated[int, Meta(ge=-1, le=2**31 - 1)] = 0
    """The most tokens that one run generates; -1 is as many as fit, 0 is the backend's own choice."""
    top_k: Int32 = 40
    """Choose among that many of the likeliest tokens; 1 is greedy. What 0 and less do is the runtime's affair."""
    top_p: TopP = 0.9
    """Choose among the likeliest tokens whose probabilities add up to this; 1 is all of them."""
    temperature: Temperature = 0.8
    """Below 1 likelier tokens gain, above 1 unlikelier ones; 0 is greedy, as ``top_k`` 1 is."""
    repeat_penalty: RepeatPenalty = 1.1
    """Tokens that occurred are made less likely by this factor; 1 is off."""
    frequency_penalty: FrequencyPenalty = 0.0
    """Subtracted from a token's logit for each time it occurred."""
    presence_penalty: Float = 0.0
    """Subtracted from a token's logit if it occurred."""
    mirostat: Mirostat = 0
    """0 is off, 1 or 2 the version of mirostat sampling."""
    mirostat_tau: Float = 5.0
    """The surprise that mirostat aims at, in bits."""
    mirostat_eta: Float = 0.1
    """How fast mirostat learns."""
    n_keep: Annotated[int, Meta(ge=-1, le=2**31 - 1)] = -1
    """Tokens kept at the front when the context shifts, fewer than ``max_context_len``."""
    skip_special_token: Flag = False
    """True leaves special tokens out of the text."""
    ignore_eos_token: Flag = False
    """True generates on past the end token (runtime 1.3)."""
    is_async: Flag = False
    """Accepted and never passed on."""
    img_start: Text = ""
    """The text before an image's tokens (until runtime 1.2)."""
    img_end: Text = ""
    """The text after an image's tokens (until runtime 1.2)."""
    img_content: Text = ""
    """The text that stands for an image's tokens (until runtime 1.2)."""
    extend_param: RKLLMExtendParam = RKLLMExtendParam()
    """What the runtime added later."""


class RKLLMSamplingParam(Value, frozen=True):
    """The sampling parameters of one run (runtime 1.3); the same meanings as in `RKLLMParam`."""

    top_k: Int32 = 40
    top_p: TopP = 0.9
    temperature: Temperature = 0.8
    repeat_penalty: RepeatPenalty = 1.1
    frequency_penalty: FrequencyPenalty = 0.0
    presence_penalty: Float = 0.0
    mirostat: Mirostat = 0
    mirostat_tau: Float = 5.0
    mirostat_eta: Float = 0.1


class RKLLMLoraParam(Value, frozen=True):
    """Which loaded LoRA adapter a run uses."""

    lora_adapter_name: Name
    """The name that the adapter was loaded under."""


class RKLLMPromptCacheParam(Value, frozen=True):
    """Whether a run saves its prompt's KV cache, and where."""

    save_prompt_cache: Flag = 0
    """1 writes the file when the run has ended."""
    prompt_cache_path: Path = ""
    """The file, on the daemon's machine."""


class RKLLMInferParam(Value, frozen=True):
    """How one run infers."""

    mode: InferMode = InferMode.RKLLM_INFER_GENERATE
    """What the run computes; one of ``INFER_MODES``."""
    lora_params: RKLLMLoraParam | None = None
    """The adapter to use; null is the base model."""
    prompt_cache_params: RKLLMPromptCacheParam | None = None
    """Whether to save the prompt's KV cache; null does not."""
    sampling_params: RKLLMSamplingParam | None = None
    """How to sample (runtime 1.3). What is null or left out, here or in it, is as it was at init."""
    keep_history: Flag = 0
    """1 goes on after the earlier turns of this model, 0 starts anew."""
    max_new_tokens: Int32 = 0
    """0 or less takes the value of init, which before runtime 1.3 is the most there is."""


class RKLLMLoraAdapter(Value, frozen=True):
    """A LoRA adapter to load."""

    lora_adapter_path: Annotated[Path, Meta(min_length=1)]
    """The file, on the daemon's machine."""
    lora_adapter_name: Name
    """By which runs will choose it."""
    scale: Float = 1.0
    """How strongly it applies."""


class RKLLMCrossAttnParam(Value, frozen=True):
    """The encoder's output for cross attention."""

    encoder_k_cache: list[Float]
    """Keys: layers × ``num_tokens`` × heads × head size float32, flat and row-major."""
    encoder_v_cache: list[Float]
    """Values: layers × heads × head size × ``num_tokens`` float32, flat and row-major; as many as keys."""
    encoder_mask: list[Float]
    """``num_tokens`` numbers."""
    encoder_pos: list[Int32]
    """``num_tokens`` positions."""
    num_tokens: Count
    """Tokens of the encoder."""


def samplingOf(param: RKLLMParam) -> RKLLMSamplingParam:
    """The sampling parameters among those a model was loaded with."""
    return RKLLMSamplingParam(**{name: getattr(param, name) for name in RKLLMSamplingParam.__struct_fields__})

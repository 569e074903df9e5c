"""The vendor's structs and enums as values, under the names that ``rkllm.h`` gives them.

The structs hold the union of the fields of every runtime release from 1.1 to 1.3.1; a runtime refuses, with
`errors.NotSupported`, a field that its release lacks unless it has its neutral default. Defaults here are the neutral
ones of a zeroed C struct where the manual names no other; the defaults of a model's parameters come from
`interfaces.IRuntime.createDefaultParam`.

Field meanings: manual of RKLLM 1.3.0, sections 3.2.1 (results), 3.2.2 (parameters) and 3.2.3 (input and inference).
"""

from __future__ import annotations

from enum import Enum, IntEnum, IntFlag
from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Int8 = Annotated[int, Meta(ge=-128, le=127)]
UInt8 = Annotated[int, Meta(ge=0, le=255)]
UInt32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Size = Annotated[int, Meta(ge=0, le=2**53)]
Flag = bool | Annotated[int, Meta(ge=0, le=1)]


class CallState(IntEnum):
    """What a result callback reports (``LLMCallState``)."""

    RKLLM_RUN_NORMAL = 0
    RKLLM_RUN_WAITING = 1
    """The bytes so far are not a whole UTF-8 character; the text comes with a later result."""
    RKLLM_RUN_FINISH = 2
    RKLLM_RUN_ERROR = 3


class InputType(IntEnum):
    """Which member of `RKLLMInput` holds the input (``RKLLMInputType``)."""

    RKLLM_INPUT_PROMPT = 0
    RKLLM_INPUT_TOKEN = 1
    RKLLM_INPUT_EMBED = 2
    RKLLM_INPUT_MULTIMODAL = 3


class InferMode(IntEnum):
    """What a run computes (``RKLLMInferMode``)."""

    RKLLM_INFER_GENERATE = 0
    RKLLM_INFER_GET_LAST_HIDDEN_LAYER = 1
    RKLLM_INFER_GET_LOGITS = 2


class CPUMask(IntFlag):
    """The macros ``CPU0`` to ``CPU7`` for ``enabled_cpus_mask``."""

    CPU0 = 1 << 0
    CPU1 = 1 << 1
    CPU2 = 1 << 2
    CPU3 = 1 << 3
    CPU4 = 1 << 4
    CPU5 = 1 << 5
    CPU6 = 1 << 6
    CPU7 = 1 << 7


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


class Value(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The base of what a client may send: unknown fields are refused."""


class RKLLMExtendParam(Value, frozen=True):
    """The extended parameters of `RKLLMParam`."""

    base_domain_id: Int32 = 0
    """NPU memory domain."""
    embed_flash: Int8 = 0
    """1 reads the vocabulary embedding from flash instead of memory."""
    enabled_cpus_num: Int8 = 4
    """How many CPU cores ``enabled_cpus_mask`` names."""
    enabled_cpus_mask: UInt32 = 0
    """A sum of `CPUMask` values."""
    n_batch: UInt8 = 1
    """How many inputs one run takes, 1 to 100."""
    use_cross_attn: Flag = 0
    """1 enables cross attention."""
    reserved: None = None


class RKLLMParam(Value, frozen=True):
    """What a model is loaded with. ``RKLLMParam`` of ``rkllm.h``."""

    model_path: str = ""
    """A model file on the daemon's machine, or a short name of the backend's own."""
    max_context_len: Int32 = 0
    """Size of the KV cache in tokens, prompt and answer together."""
    max_new_tokens: Int32 = 0
    """The most tokens that one run generates; -1 is as many as fit."""
    top_k: Int32 = 40
    top_p: float = 0.9
    temperature: float = 0.8
    repeat_penalty: float = 1.1
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    mirostat: Int32 = 0
    """0 off, 1 or 2 the version of mirostat sampling."""
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    n_keep: Int32 = -1
    """Tokens kept at the front when the context shifts."""
    skip_special_token: Flag = False
    """True leaves special tokens out of the text."""
    ignore_eos_token: Flag = False
    """True generates on past the end token (runtime 1.3)."""
    is_async: Flag = False
    """Accepted and never passed on."""
    img_start: str = ""
    img_end: str = ""
    img_content: str = ""
    extend_param: RKLLMExtendParam = RKLLMExtendParam()


class RKLLMSamplingParam(Value, frozen=True):
    """The sampling parameters of one run (runtime 1.3); the same meanings as in `RKLLMParam`."""

    top_k: Int32 = 40
    top_p: float = 0.9
    temperature: float = 0.8
    repeat_penalty: float = 1.1
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    mirostat: Int32 = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1


class RKLLMLoraParam(Value, frozen=True):
    """Which loaded LoRA adapter a run uses."""

    lora_adapter_name: str


class RKLLMPromptCacheParam(Value, frozen=True):
    """Whether a run saves its prompt's KV cache, and where."""

    save_prompt_cache: Flag = 0
    prompt_cache_path: str = ""


class RKLLMInferParam(Value, frozen=True):
    """How one run infers."""

    mode: InferMode = InferMode.RKLLM_INFER_GENERATE
    lora_params: RKLLMLoraParam | None = None
    prompt_cache_params: RKLLMPromptCacheParam | None = None
    sampling_params: RKLLMSamplingParam | None = None
    """None takes the values of init; a value replaces the whole set."""
    keep_history: Flag = 0
    """1 goes on after the earlier turns of this model, 0 starts anew."""
    max_new_tokens: Int32 = 0
    """0 or less takes the value of init."""


class RKLLMEmbedInput(Value, frozen=True):
    """Embeddings instead of text: ``n_tokens`` rows of float32, flat and row-major."""

    embed: list[float]
    n_tokens: Size


class RKLLMTokenInput(Value, frozen=True):
    """Token ids instead of text."""

    input_ids: list[Int32]
    n_tokens: Size


class RKLLMImage(Value, frozen=True):
    """The image block of a multimodal input of runtime 1.3."""

    image_embed: list[float] = []
    n_image_tokens: Size = 0
    n_image: Size = 0
    image_start: str = ""
    image_end: str = ""
    image_content: str = ""
    image_width: Size = 0
    image_height: Size = 0


class RKLLMVideo(Value, frozen=True):
    """The video block of a multimodal input of runtime 1.3."""

    video_embed: list[float] = []
    n_frame_tokens: Size = 0
    n_frame_per_video: Size = 0
    n_video: Size = 0
    video_start: str = ""
    video_end: str = ""
    video_content: str = ""
    frame_width: Size = 0
    frame_height: Size = 0


class RKLLMAudio(Value, frozen=True):
    """The audio block of a multimodal input of runtime 1.3.1."""

    audio_embed: list[float] = []
    n_audio_tokens: Size = 0
    n_audio: Size = 0
    audio_start: str = ""
    audio_end: str = ""
    audio_content: str = ""


class RKLLMMultiModalInput(Value, frozen=True):
    """Text with embeddings of images, flat as in runtime 1.2 or in blocks as in 1.3."""

    prompt: str
    image_embed: list[float] = []
    n_image_tokens: Size = 0
    n_image: Size = 0
    image_width: Size = 0
    image_height: Size = 0
    image: RKLLMImage | None = None
    video: RKLLMVideo | None = None
    audio: RKLLMAudio | None = None


class RKLLMInput(Value, frozen=True):
    """The input of one run; ``input_type`` says which of the last four members counts."""

    input_type: InputType = InputType.RKLLM_INPUT_PROMPT
    role: str = "user"
    """``user``, or ``tool`` for the result of a function call."""
    enable_thinking: Flag = False
    prompt_input: str | None = None
    embed_input: RKLLMEmbedInput | None = None
    token_input: RKLLMTokenInput | None = None
    multimodal_input: RKLLMMultiModalInput | None = None

    MEMBERS: ClassVar[dict[InputType, str]] = {
        InputType.RKLLM_INPUT_PROMPT: "prompt_input",
        InputType.RKLLM_INPUT_TOKEN: "token_input",
        InputType.RKLLM_INPUT_EMBED: "embed_input",
        InputType.RKLLM_INPUT_MULTIMODAL: "multimodal_input",
    }


class RKLLMLoraAdapter(Value, frozen=True):
    """A LoRA adapter to load."""

    lora_adapter_path: str
    lora_adapter_name: str
    scale: float = 1.0


class RKLLMCrossAttnParam(Value, frozen=True):
    """The encoder's output for cross attention."""

    encoder_k_cache: list[float]
    encoder_v_cache: list[float]
    encoder_mask: list[float]
    encoder_pos: list[Int32]
    num_tokens: Size


class Delivery(Value, frozen=True):
    """How one run is delivered over the wire (W-OPTIONS); a backend needs it where it spells results itself."""

    stream: Literal["lines", "progress", "whole"] = "lines"
    """One line for each result; or each as a notification, then the whole; or the whole in one response."""
    tensors: Literal["json", "base64"] = "json"
    """Numbers as JSON, or {``dtype``, ``shape``, ``data``} with the rows as base64 of little-endian float32."""
    rows: Literal["all", "last"] = "all"
    """All rows of a tensor, or the last of each result."""
    deadline: Annotated[float, Meta(gt=0)] | None = None
    """Seconds from the arrival of the request to its last line; None is no limit."""


class RKLLMResultLastHiddenLayer(Struct, frozen=True):
    """Hidden states of the last layer: ``num_tokens`` × ``embd_size`` float32, flat and row-major, host byte order."""

    hidden_states: bytes | None = None
    embd_size: int = 0
    num_tokens: int = 0


class RKLLMResultLogits(Struct, frozen=True):
    """Logits: ``num_tokens`` × ``vocab_size`` float32, flat and row-major, host byte order."""

    logits: bytes | None = None
    vocab_size: int = 0
    num_tokens: int = 0


class RKLLMPerfStat(Struct, frozen=True):
    """The figures of a finished run."""

    prefill_time_ms: float = 0.0
    prefill_tokens: int = 0
    generate_time_ms: float = 0.0
    generate_tokens: int = 0
    """Tokens after the first, so that generate_tokens / generate_time_ms is the decode rate."""
    memory_usage_mb: float = 0.0
    """Peak resident size (VmHWM) of the process that ran the model."""


NO_HIDDEN_STATES = RKLLMResultLastHiddenLayer()
NO_LOGITS = RKLLMResultLogits()
NO_PERF = RKLLMPerfStat()


class RKLLMResult(Struct, frozen=True):
    """What one callback of the runtime reports. Everything in it is a copy."""

    text: str | None = None
    """Whole characters; None where the callback brought none."""
    token_id: int = 0
    last_hidden_layer: RKLLMResultLastHiddenLayer = NO_HIDDEN_STATES
    logits: RKLLMResultLogits = NO_LOGITS
    perf: RKLLMPerfStat = NO_PERF
    """Valid with the state FINISH only."""


class EncodedResult(Struct, frozen=True):
    """A result that was spelled as JSON where it was born; it goes into its line without being parsed."""

    body: bytes
    """The JSON object of W-STREAM, ``_callback_state`` included."""


def samplingOf(param: RKLLMParam) -> RKLLMSamplingParam:
    """The sampling parameters among those a model was loaded with."""
    return RKLLMSamplingParam(**{name: getattr(param, name) for name in RKLLMSamplingParam.__struct_fields__})


def needs(input: RKLLMInput, inferParam: RKLLMInferParam) -> frozenset[Capability]:
    """What a backend must be capable of to run this.

    Args:
        input: The input of the run.
        inferParam: How it infers.

    Returns:
        The capabilities, none for what every backend must do.
    """
    kinds = {
        InputType.RKLLM_INPUT_PROMPT: Capability.PROMPT_INPUT,
        InputType.RKLLM_INPUT_TOKEN: Capability.TOKEN_INPUT,
        InputType.RKLLM_INPUT_EMBED: Capability.EMBED_INPUT,
        InputType.RKLLM_INPUT_MULTIMODAL: Capability.MULTIMODAL_INPUT,
    }
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
    return frozenset({kinds[input.input_type], *(capability for capability, is_asked in asked.items() if is_asked)})

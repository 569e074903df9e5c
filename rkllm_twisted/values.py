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

from rkllm_twisted.errors import ResultTooLarge
from rkllm_twisted.ranges import MAX_FLOAT, Count, Flag, Float, Int32, Name, Path, Size, Text, UInt32

TopP = Annotated[float, Meta(gt=0, le=1)]
Temperature = Annotated[float, Meta(ge=0, le=MAX_FLOAT)]
RepeatPenalty = Annotated[float, Meta(gt=0, le=MAX_FLOAT)]
FrequencyPenalty = Annotated[float, Meta(ge=-2, le=2)]
Mirostat = Annotated[int, Meta(ge=0, le=2)]


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


class RKLLMEmbedInput(Value, frozen=True):
    """Embeddings instead of text: ``n_tokens`` rows of float32, flat and row-major."""

    embed: list[Float]
    """The rows one after the other, each of the model's embedding size."""
    n_tokens: Count
    """How many rows."""


class RKLLMTokenInput(Value, frozen=True):
    """Token ids instead of text."""

    input_ids: list[Size]
    """Ids of the model's own vocabulary."""
    n_tokens: Count
    """How many ids."""


class RKLLMImage(Value, frozen=True):
    """The image block of a multimodal input of runtime 1.3."""

    image_embed: list[Float] = []
    """The embeddings of all images: ``n_image`` × ``n_image_tokens`` rows of float32, flat and row-major."""
    n_image_tokens: Size = 0
    """Rows of each image."""
    n_image: Size = 0
    """How many images; ``prompt`` has ``<image>`` as many times."""
    image_start: Text = ""
    """The text before an image's tokens."""
    image_end: Text = ""
    """The text after an image's tokens."""
    image_content: Text = ""
    """The text that stands for an image's tokens."""
    image_width: Size = 0
    """In pixels, as the encoder took it."""
    image_height: Size = 0
    """In pixels, as the encoder took it."""


class RKLLMVideo(Value, frozen=True):
    """The video block of a multimodal input of runtime 1.3."""

    video_embed: list[Float] = []
    """The embeddings: ``n_video`` × ``n_frame_per_video`` × ``n_frame_tokens`` rows of float32, flat and row-major."""
    n_frame_tokens: Size = 0
    """Rows of each frame."""
    n_frame_per_video: Size = 0
    """Frames of each video."""
    n_video: Size = 0
    """How many videos; ``prompt`` has ``<video>`` as many times."""
    video_start: Text = ""
    """The text before a video's tokens."""
    video_end: Text = ""
    """The text after a video's tokens."""
    video_content: Text = ""
    """The text that stands for a video's tokens."""
    frame_width: Size = 0
    """In pixels, as the encoder took it."""
    frame_height: Size = 0
    """In pixels, as the encoder took it."""


class RKLLMAudio(Value, frozen=True):
    """The audio block of a multimodal input of runtime 1.3.1."""

    audio_embed: list[Float] = []
    """The embeddings: ``n_audio`` × ``n_audio_tokens`` rows of float32, flat and row-major."""
    n_audio_tokens: Size = 0
    """Rows of each recording."""
    n_audio: Size = 0
    """How many recordings."""
    audio_start: Text = ""
    """The text before a recording's tokens."""
    audio_end: Text = ""
    """The text after a recording's tokens."""
    audio_content: Text = ""
    """The text that stands for a recording's tokens."""


class RKLLMMultiModalInput(Value, frozen=True):
    """Text with embeddings of images, flat as in runtime 1.2 or in blocks as in 1.3."""

    prompt: Text
    """The text, with a marker where each image and each video belongs."""
    image_embed: list[Float] = []
    """As in the block ``image``; so for the next four (until runtime 1.2)."""
    n_image_tokens: Size = 0
    """Rows of each image."""
    n_image: Size = 0
    """How many images; 0, where there is an ``image_embed``, is one (until runtime 1.2.0)."""
    image_width: Size = 0
    """In pixels, as the encoder took it."""
    image_height: Size = 0
    """In pixels, as the encoder took it."""
    image: RKLLMImage | None = None
    """The images (runtime 1.3)."""
    video: RKLLMVideo | None = None
    """The videos (runtime 1.3)."""
    audio: RKLLMAudio | None = None
    """The recordings (runtime 1.3.1)."""


class RKLLMInput(Value, frozen=True):
    """The input of one run; ``input_type`` says which of the last four members counts."""

    input_type: InputType = InputType.RKLLM_INPUT_PROMPT
    """Which of the last four counts; one of ``INPUT_TYPES``."""
    role: Annotated[Text, Meta(max_length=255)] = "user"
    """``user``, or ``tool`` for the result of a function call."""
    enable_thinking: Flag = False
    """True lets a model think that can; on the NPU only with its own chat template (airockchip/rknn-llm issue 377)."""
    prompt_input: Text | None = None
    """A text, put into the model's chat template."""
    embed_input: RKLLMEmbedInput | None = None
    """Embeddings, taken as they are."""
    token_input: RKLLMTokenInput | None = None
    """Token ids, taken as they are."""
    multimodal_input: RKLLMMultiModalInput | None = None
    """A text with embeddings of images."""

    MEMBERS: ClassVar[dict[InputType, str]] = {
        InputType.RKLLM_INPUT_PROMPT: "prompt_input",
        InputType.RKLLM_INPUT_TOKEN: "token_input",
        InputType.RKLLM_INPUT_EMBED: "embed_input",
        InputType.RKLLM_INPUT_MULTIMODAL: "multimodal_input",
    }

    @property
    def chosen(self) -> object:
        """The member that ``input_type`` names; None if it is missing."""
        chosen: object = getattr(self, self.MEMBERS[self.input_type])
        return chosen


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


class DeliveryOptions(Value, frozen=True):
    """How one run is delivered over the wire (W-OPTIONS)."""

    stream: Literal["lines", "progress", "whole"] = "lines"
    """One line for each result; or each as a notification, then the whole; or the whole in one response."""
    tensors: Literal["json", "base64"] = "json"
    """Numbers as JSON, or {``dtype``, ``shape``, ``data``} with the rows as base64 of little-endian float32."""
    rows: Literal["all", "last"] = "all"
    """All rows of a tensor, or the last of each result."""
    deadline: Annotated[float, Meta(gt=0)] | None = None
    """Seconds from the arrival of the request to its last line; without it there is no limit."""


MAX_REPLY = 256 * 2**20
"""The longest result with tensors in it, in bytes, unless another limit is given."""


class Delivery(Struct, frozen=True):
    """How one run is delivered, for whoever makes its results: what may be left out, and what would be too long.

    A backend that makes tensors asks `checkTensors` before it computes them. It need not look at ``rows``: what nobody
    wants is left out later.
    """

    stream: Literal["lines", "progress", "whole"] = "lines"
    tensors: Literal["json", "base64"] = "json"
    rows: Literal["all", "last"] = "all"
    maxReply: int = MAX_REPLY
    """The longest result with tensors in it, in bytes as it is spelled."""

    def checkTensors(self, size: int) -> None:
        """Refuse tensors that would be too long, before they are spelled.

        Args:
            size: In bytes of float32. As JSON, a number of four bytes takes two characters at least; as base64, 5.3.

        Raises:
            ResultTooLarge: Whatever the numbers are.
        """
        self.checkReply(size // 2 if self.tensors == "json" else size * 4 // 3)

    def checkReply(self, size: int) -> None:
        """Refuse a result of so many bytes.

        Raises:
            ResultTooLarge: It is too long.
        """
        if size > self.maxReply:
            raise ResultTooLarge(f"{size} bytes, the limit is {self.maxReply}", bytes=size, limit=self.maxReply)


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
    """Milliseconds from the start to the first token."""
    prefill_tokens: int = 0
    """Tokens of the prompt."""
    generate_time_ms: float = 0.0
    """Milliseconds from the first token to the last."""
    generate_tokens: int = 0
    """Tokens after the first, so that ``generate_tokens`` / ``generate_time_ms`` is the decode rate."""
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
    batch_index: int | None = None
    """Which of the inputs of a batch this is of; None where there is one input only."""

    @property
    def isToken(self) -> bool:
        """Whether it is about a token."""
        return self.token_id >= 0


class EncodedResult(Struct, frozen=True):
    """A result that was spelled as JSON where it was born; it goes into its line without being parsed."""

    body: bytes
    """The JSON object of W-STREAM, ``_callback_state`` included."""
    isToken: bool = True
    """Whether it is about a token."""


KINDS = {
    InputType.RKLLM_INPUT_PROMPT: Capability.PROMPT_INPUT,
    InputType.RKLLM_INPUT_TOKEN: Capability.TOKEN_INPUT,
    InputType.RKLLM_INPUT_EMBED: Capability.EMBED_INPUT,
    InputType.RKLLM_INPUT_MULTIMODAL: Capability.MULTIMODAL_INPUT,
}
"""What each type of input needs a backend to be capable of."""


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
    return frozenset({KINDS[input.input_type], *(capability for capability, is_asked in asked.items() if is_asked)})

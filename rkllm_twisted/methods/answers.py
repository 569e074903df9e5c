"""What each method answers with, its results as structs and its errors: for the document of ``rpc.discover``."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from rkllm_twisted.errors import (
    BackendLost,
    Busy,
    Cancelled,
    DeadlinePassed,
    InternalError,
    InvalidParams,
    ModelLoadFailed,
    ModelNotInitialized,
    NotPermitted,
    NotSupported,
    ParseError,
    PromptTooLong,
    ReaderTooSlow,
    ResultTooLarge,
    RKLLMError,
    RuntimeCallFailed,
    ShuttingDown,
)
from rkllm_twisted.values import CallState, RKLLMParam, RKLLMPerfStat


class Constants(Struct):
    """The names and numbers of ``rkllm.h``."""

    CPU_MASKS: dict[str, int]
    """For ``enabled_cpus_mask``."""
    LLM_CALL_STATES: dict[str, int]
    """What ``_callback_state`` says."""
    INPUT_TYPES: dict[str, int]
    """For ``input_type``."""
    INFER_MODES: dict[str, int]
    """For ``mode``."""


class Success(Struct):
    """It has been done."""

    success: bool
    """Always true: a failure is an error."""
    message: str
    """What has been done, for people."""


class AbortSuccess(Success):
    """Also where nothing ran."""

    status_code: int
    """Always 0."""


class Running(Struct):
    """Whether a generation runs."""

    is_running: bool
    """False without a model too."""
    status_code: int
    """Always 0."""


class PromptCacheSuccess(Success):
    """It has been loaded."""

    cache_path: str
    """As it was given."""


class ClearSuccess(Success):
    """It has been cleared."""

    keep_system_prompt: bool
    """As it was given."""


class CacheSizes(Success):
    """The sizes."""

    cache_sizes: list[int]
    """Tokens, one number for each batch."""


class ChatTemplateSuccess(Success):
    """It has been set; with function tools too, ``message`` says that they will not be injected (W-TOOLS)."""

    system_prompt: str
    """As it was given."""
    prompt_prefix: str
    """As it was given."""
    prompt_postfix: str
    """As it was given."""


class FunctionToolsSuccess(Success):
    """They have been set; with a chat template too, ``message`` says that they will not be injected (W-TOOLS)."""

    system_prompt: str
    """As it was given."""
    tools: str | list[Any] | dict[str, Any]
    """As they were given."""
    tool_response_str: str
    """As it was given."""


class CrossAttentionSuccess(Success):
    """It has been set."""

    num_tokens: int
    """As it was given."""


class Base64Tensor(Struct):
    """Rows of a tensor, where ``tensors`` of the call is ``base64``."""

    dtype: Literal["<f4"]
    """Little-endian float32."""
    shape: list[int]
    """Rows and columns."""
    data: str
    """The numbers in base64, row-major."""


class HiddenStates(Struct):
    """Hidden states of the last layer."""

    hidden_states: list[float] | Base64Tensor | None
    """``num_tokens`` × ``embd_size`` numbers, flat and row-major; null in the other modes."""
    embd_size: int
    """Numbers in a row."""
    num_tokens: int
    """Rows."""


class Logits(Struct):
    """Logits."""

    logits: list[float] | Base64Tensor | None
    """``num_tokens`` × ``vocab_size`` numbers, flat and row-major; null in the other modes."""
    vocab_size: int
    """Numbers in a row."""
    num_tokens: int
    """Rows."""


class StreamError(Struct):
    """Why a generation failed after its first token."""

    code: int
    """As in an error of JSON-RPC."""
    message: str
    """As in an error of JSON-RPC."""
    data: dict[str, Any] | UnsetType = UNSET
    """As in an error of JSON-RPC."""


class StreamLine(Struct):
    """One line of the stream; the last has a ``_callback_state`` of 2 or 3 (W-STREAM, W-LAST, W-FINISH)."""

    text: str | None
    """Whole characters; null where there are none."""
    token_id: int
    """The token; -1 where the line is not about one."""
    last_hidden_layer: HiddenStates
    """Of the mode ``RKLLM_INFER_GET_LAST_HIDDEN_LAYER``."""
    logits: Logits
    """Of the mode ``RKLLM_INFER_GET_LOGITS``."""
    perf: RKLLMPerfStat
    """The figures of the run, in the last line."""
    _callback_state: CallState
    """0 normal, 1 waiting for the rest of a character, 2 finish, 3 error."""
    finish_reason: Literal["stop", "length", "abort"] | UnsetType = UNSET
    """Why it ended, in the last line, where the backend knows."""
    history_lost: bool | UnsetType = UNSET
    """True in the last line if the earlier turns are gone: cleared for another connection, with the process of the
    backend, or with the model (W-HISTORY)."""
    batch_index: int | UnsetType = UNSET
    """Which input it belongs to, where there are several (W-NBATCH)."""
    error: StreamError | UnsetType = UNSET
    """Why it failed, in a last line of state 3."""


class BackendStatus(Struct):
    """What runs the models."""

    name: str
    """As in ``--backend``."""
    state: str
    """``generating``, ``busy`` with something else, ``ready`` or ``no model``."""


class Waiting(Struct):
    """A request that waits."""

    id: str | int | float | None
    """Its id; null of a notification."""
    position: int
    """1 is next."""


class QueueStatus(Struct):
    """Who waits for the model."""

    length: int
    """How many requests."""
    limit: int
    """How many may."""
    waiting: list[Waiting]
    """The caller's own."""


class Status(Struct):
    """What the daemon is doing."""

    version: str
    """Of rkllm-twisted."""
    backend: BackendStatus
    """What runs the models."""
    model: str | None
    """The last part of its path; null without one."""
    queue: QueueStatus
    """Who waits for the model."""
    uptime: float
    """Seconds since the start."""
    counters: dict[str, int]
    """What has been done since the start, by name."""


class CancelResult(Struct):
    """Whether there was something to cancel."""

    success: bool
    """False if no such request was in flight."""


Errors = tuple[type[RKLLMError], ...]

OF_ANY_CALL: Errors = (ParseError, InvalidParams, InternalError)
OF_A_TURN: Errors = (*OF_ANY_CALL, Busy, ShuttingDown, BackendLost, NotPermitted, NotSupported, Cancelled)
"""The errors of what waits for its turn with the model."""
OF_INIT: Errors = (*OF_A_TURN, RuntimeCallFailed, ModelLoadFailed)
OF_THE_MODEL: Errors = (*OF_A_TURN, RuntimeCallFailed, ModelNotInitialized)
"""The errors of what needs a model."""
OF_A_RUN: Errors = (*OF_THE_MODEL, DeadlinePassed, ResultTooLarge, PromptTooLong, ReaderTooSlow)

ANSWERS: dict[str, tuple[Errors, tuple[Any, ...]]] = {
    "rkllm.createDefaultParam": (OF_ANY_CALL, (RKLLMParam,)),
    "rkllm.get_constants": (OF_ANY_CALL, (Constants,)),
    "rkllm.init": (OF_INIT, (Success,)),
    "rkllm.run": (OF_A_RUN, (StreamLine,)),
    "rkllm.run_async": (OF_A_RUN, (Success, StreamLine)),
    "rkllm.abort": (OF_ANY_CALL, (AbortSuccess,)),
    "rkllm.is_running": (OF_ANY_CALL, (Running,)),
    "rkllm.destroy": (OF_THE_MODEL, (Success,)),
    "rkllm.load_lora": (OF_THE_MODEL, (Success,)),
    "rkllm.load_prompt_cache": (OF_THE_MODEL, (PromptCacheSuccess,)),
    "rkllm.release_prompt_cache": (OF_THE_MODEL, (Success,)),
    "rkllm.clear_kv_cache": (OF_THE_MODEL, (ClearSuccess,)),
    "rkllm.get_kv_cache_size": (OF_THE_MODEL, (CacheSizes,)),
    "rkllm.set_chat_template": (OF_THE_MODEL, (ChatTemplateSuccess,)),
    "rkllm.set_function_tools": (OF_THE_MODEL, (FunctionToolsSuccess,)),
    "rkllm.set_cross_attn_params": (OF_THE_MODEL, (CrossAttentionSuccess,)),
    "rpc.discover": (OF_ANY_CALL, (dict[str, Any],)),
    "server.status": (OF_ANY_CALL, (Status,)),
    "$/cancelRequest": (OF_ANY_CALL, (CancelResult,)),
}
"""For each method its errors, and the types of its result or of the lines of its stream."""

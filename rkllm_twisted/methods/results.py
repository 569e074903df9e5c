"""What the methods answer with, as structs: for the document of ``rpc.discover``, which describes results by them."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from rkllm_twisted.errors import (
    BackendLost,
    Busy,
    Cancelled,
    DeadlinePassed,
    ModelLoadFailed,
    ModelNotInitialized,
    NotPermitted,
    NotSupported,
    PromptTooLong,
    ReaderTooSlow,
    ResultTooLarge,
    RKLLMError,
    RuntimeCallFailed,
    ShuttingDown,
)
from rkllm_twisted.values import CallState, RKLLMPerfStat

Errors = tuple[type[RKLLMError], ...]

OF_A_TURN: Errors = (Busy, ShuttingDown, BackendLost, NotPermitted, NotSupported, Cancelled)
"""The errors of what waits for its turn with the model."""
OF_THE_MODEL: Errors = (ModelNotInitialized, *OF_A_TURN, RuntimeCallFailed)
"""The errors of what needs a model."""
OF_A_RUN: Errors = (*OF_THE_MODEL, DeadlinePassed, ResultTooLarge, PromptTooLong, ReaderTooSlow)
"""The errors of a generation."""
OF_INIT: Errors = (*OF_A_TURN, RuntimeCallFailed, ModelLoadFailed)
"""The errors of loading a model."""


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
    """0."""


class Running(Struct):
    """Whether a generation runs."""

    is_running: bool
    """False without a model too."""
    status_code: int
    """0."""


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
    """True in the last line if the earlier turns had been cleared for another connection (W-HISTORY)."""
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

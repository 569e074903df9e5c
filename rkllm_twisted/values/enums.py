"""The vendor's enums and masks, under the names and with the numbers that ``rkllm.h`` gives them."""

from __future__ import annotations

from enum import IntEnum, IntFlag


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

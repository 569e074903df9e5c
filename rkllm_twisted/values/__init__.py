"""The vendor's structs and enums as values, under the names that ``rkllm.h`` gives them.

What a client asks is in `parameters` (how) and `inputs` (what), what comes back in `results`. `delivery` says how that
reaches the client, and `capabilities` what of all this a backend may lack.

The structs hold the union of the fields of every runtime release from 1.1 to 1.3.1; a runtime refuses, with
`errors.NotSupported`, a field that its release lacks unless it has its neutral default. Defaults here are the neutral
ones of a zeroed C struct where the manual names no other; the defaults of a model's parameters come from
`interfaces.IRuntime.createDefaultParam`.
"""

from rkllm_twisted.values.base import Value
from rkllm_twisted.values.capabilities import NEEDED_BY, Capability, needs, refuseParam, refuseUnsupported
from rkllm_twisted.values.delivery import MAX_REPLY, Delivery, DeliveryOptions
from rkllm_twisted.values.enums import CallState, CPUMask, InferMode, InputType
from rkllm_twisted.values.inputs import (
    RKLLMAudio,
    RKLLMEmbedInput,
    RKLLMImage,
    RKLLMInput,
    RKLLMMultiModalInput,
    RKLLMTokenInput,
    RKLLMVideo,
)
from rkllm_twisted.values.parameters import (
    RKLLMCrossAttnParam,
    RKLLMExtendParam,
    RKLLMInferParam,
    RKLLMLoraAdapter,
    RKLLMLoraParam,
    RKLLMParam,
    RKLLMPromptCacheParam,
    RKLLMSamplingParam,
    samplingOf,
)
from rkllm_twisted.values.results import (
    NO_HIDDEN_STATES,
    NO_LOGITS,
    NO_PERF,
    EncodedResult,
    Received,
    RKLLMPerfStat,
    RKLLMResult,
    RKLLMResultLastHiddenLayer,
    RKLLMResultLogits,
)

__all__ = [
    "MAX_REPLY",
    "NEEDED_BY",
    "NO_HIDDEN_STATES",
    "NO_LOGITS",
    "NO_PERF",
    "CPUMask",
    "CallState",
    "Capability",
    "Delivery",
    "DeliveryOptions",
    "EncodedResult",
    "InferMode",
    "InputType",
    "RKLLMAudio",
    "RKLLMCrossAttnParam",
    "RKLLMEmbedInput",
    "RKLLMExtendParam",
    "RKLLMImage",
    "RKLLMInferParam",
    "RKLLMInput",
    "RKLLMLoraAdapter",
    "RKLLMLoraParam",
    "RKLLMMultiModalInput",
    "RKLLMParam",
    "RKLLMPerfStat",
    "RKLLMPromptCacheParam",
    "RKLLMResult",
    "RKLLMResultLastHiddenLayer",
    "RKLLMResultLogits",
    "RKLLMSamplingParam",
    "RKLLMTokenInput",
    "RKLLMVideo",
    "Received",
    "Value",
    "needs",
    "refuseParam",
    "refuseUnsupported",
    "samplingOf",
]

"""What comes back: the results of a run, and its figures.

Field meanings: manual of RKLLM 1.3.0, section 3.2.1.
"""

from __future__ import annotations

from msgspec import Struct

from rkllm_twisted.values.enums import CallState


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


Received = tuple[RKLLMResult | EncodedResult, CallState]
"""A result and its state."""

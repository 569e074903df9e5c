"""Logits and hidden states on their way out of C's memory into results."""

from __future__ import annotations

from collections.abc import Callable

from rkllm_twisted.backends.llamacpp.context import Context
from rkllm_twisted.backends.llamacpp.sequence import Sequence
from rkllm_twisted.values import (
    NO_HIDDEN_STATES,
    NO_LOGITS,
    Delivery,
    InferMode,
    RKLLMResult,
    RKLLMResultLastHiddenLayer,
    RKLLMResultLogits,
)


class Tensors:
    """What a run in one of the modes wants beside tokens.

    Args:
        context: Computes them.
        mode: Which are wanted.
        delivery: Which of their rows are wanted, and how many bytes they may have.
    """

    def __init__(self, context: Context, mode: InferMode, delivery: Delivery) -> None:
        self._context = context
        self._delivery = delivery
        self._wantsLogits = mode is InferMode.RKLLM_INFER_GET_LOGITS
        self._wantsHidden = mode is InferMode.RKLLM_INFER_GET_LAST_HIDDEN_LAYER
        self._taken: dict[int, list[bytes]] = {}

    @property
    def areWanted(self) -> bool:
        """Whether any are."""
        return self._wantsLogits or self._wantsHidden

    @property
    def _width(self) -> int:
        return self._context.vocabularySize if self._wantsLogits else self._context.outWidth

    def check(self, count: int) -> None:
        """Refuse tensors that would be too long, before they are computed.

        Args:
            count: The places of a prompt.

        Raises:
            ResultTooLarge: They would be.
        """
        if self.areWanted:
            self._delivery.checkTensors((1 if self._delivery.rows == "last" else count) * self._width * 4)

    def takenFrom(self, sequence: Sequence) -> tuple[int, Callable[[int, int], object]]:
        """How to compute a sequence: the first place of which a row is wanted, and what takes the rows of a block."""
        last = len(sequence.places) - 1
        if not self.areWanted:
            return last, lambda size, outputs: None
        first = last if self._delivery.rows == "last" else sequence.began
        rows = self._taken[sequence.number] = []

        def take(size: int, outputs: int) -> None:
            if outputs and self._wantsLogits:
                rows.append(self._context.logits(outputs))
            elif outputs:
                rows.append(self._context.hiddenStates(size - outputs, outputs))

        return first, take

    def takeStep(self, sequence: Sequence) -> None:
        """Take the row of a step of one sequence alone."""
        if self._wantsLogits:
            self._taken[sequence.number] = [self._context.logits(1)]

    def resultOf(self, sequence: Sequence, text: str | None, token: int, index: int | None) -> RKLLMResult:
        """The result with a token, and with the rows that were taken since the last one."""
        taken = self._taken.pop(sequence.number, None)
        if taken is None:
            return RKLLMResult(text=text, token_id=token, batch_index=index)
        data = taken[0] if len(taken) == 1 else b"".join(taken)
        rows = len(data) // (self._width * 4)
        logits = RKLLMResultLogits(data, self._width, rows) if self._wantsLogits else NO_LOGITS
        hidden = RKLLMResultLastHiddenLayer(data, self._width, rows) if self._wantsHidden else NO_HIDDEN_STATES
        return RKLLMResult(text=text, token_id=token, last_hidden_layer=hidden, logits=logits, batch_index=index)

    def __enter__(self) -> None:
        self._context.giveHiddenStates(self._wantsHidden)

    def __exit__(self, *problem: object) -> None:
        self._context.giveHiddenStates(False)

"""A run of a blocking runtime, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rkllm_twisted.interfaces import IRuntimeModel
from rkllm_twisted.values import CallState, Delivery, RKLLMInferParam, RKLLMInput, RKLLMPerfStat, RKLLMResult


class Run:
    """A run that has ended.

    Args:
        model: Runs.
        input: A prompt, an input, or the inputs of a batch.
        inferParam: How.
        onResult: Is called with each result too.
        prepare: Whether earlier aborts are to be forgotten.
        delivery: See `IRuntimeModel.run`.

    Attributes:
        events: All results in their order, with their states.
        reason: Why it ended.
    """

    def __init__(
        self,
        model: IRuntimeModel,
        input: str | RKLLMInput | list[RKLLMInput],
        inferParam: RKLLMInferParam | None = None,
        onResult: Callable[[RKLLMResult, CallState], None] = lambda result, state: None,
        prepare: bool = True,
        delivery: Delivery = Delivery(),  # noqa: B008  # frozen
    ) -> None:
        self.events: list[tuple[RKLLMResult, CallState]] = []

        def received(result: RKLLMResult, state: CallState) -> None:
            self.events.append((result, state))
            onResult(result, state)

        if prepare:
            model.prepare()
        run = model.runBatch if isinstance(input, list) else model.run
        given: Any = RKLLMInput(prompt_input=input) if isinstance(input, str) else input
        self.reason = run(given, inferParam or RKLLMInferParam(), received, delivery)

    @property
    def results(self) -> list[RKLLMResult]:
        """All but the FINISH, which must be the last."""
        states = [state for _, state in self.events]
        assert states.index(CallState.RKLLM_RUN_FINISH) == len(states) - 1
        return [result for result, _ in self.events[:-1]]

    @property
    def texts(self) -> list[str | None]:
        """The text of each result."""
        return [result.text for result in self.results]

    @property
    def text(self) -> str:
        """All text."""
        return "".join(text or "" for text in self.texts)

    @property
    def tokens(self) -> list[int]:
        """The token of each result; -1 where it has none."""
        return [result.token_id for result in self.results]

    @property
    def perf(self) -> RKLLMPerfStat:
        """The figures of the FINISH."""
        return self.events[-1][0].perf

    def resultsOf(self, index: int) -> list[RKLLMResult]:
        """The results of one input of a batch."""
        return [result for result in self.results if result.batch_index == index]

    def tokensOf(self, index: int) -> list[int]:
        """The tokens of one input, without those that say that it has ended."""
        return [result.token_id for result in self.resultsOf(index) if result.token_id >= 0]

    def textOf(self, index: int) -> str:
        """The text of one input."""
        return "".join(result.text or "" for result in self.resultsOf(index))

"""Short ways to run a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rkllm_twisted.interfaces import IRuntimeModel
from rkllm_twisted.values import (
    CallState,
    Delivery,
    InputType,
    RKLLMInferParam,
    RKLLMInput,
    RKLLMPerfStat,
    RKLLMResult,
    RKLLMTokenInput,
)

NORMAL, WAITING, FINISH = (CallState.RKLLM_RUN_NORMAL, CallState.RKLLM_RUN_WAITING, CallState.RKLLM_RUN_FINISH)


class Run:
    """A run and what came of it.

    Args:
        model: Runs.
        input: A prompt, an input, or the inputs of a batch.
        delivery: How.
        onResult: Is called with each result too.
        prepare: Whether earlier aborts are to be forgotten.
        inferParam: Fields of it.
    """

    def __init__(
        self,
        model: IRuntimeModel,
        input: str | RKLLMInput | list[RKLLMInput] = "one two three",
        delivery: Delivery = Delivery(),  # noqa: B008  # frozen
        onResult: Callable[[RKLLMResult, CallState], None] = lambda result, state: None,
        prepare: bool = True,
        **inferParam: Any,
    ) -> None:
        self.events: list[tuple[RKLLMResult, CallState]] = []

        def received(result: RKLLMResult, state: CallState) -> None:
            self.events.append((result, state))
            onResult(result, state)

        if prepare:
            model.prepare()
        run = model.runBatch if isinstance(input, list) else model.run
        given: Any = prompt(input) if isinstance(input, str) else input
        self.reason = run(given, RKLLMInferParam(**inferParam), received, delivery)

    @property
    def results(self) -> list[RKLLMResult]:
        """All but the FINISH, which must be the last."""
        states = [state for _, state in self.events]
        assert states.index(FINISH) == len(states) - 1
        return [result for result, _ in self.events[:-1]]

    @property
    def texts(self) -> list[str | None]:
        return [result.text for result in self.results]

    @property
    def text(self) -> str:
        return "".join(text or "" for text in self.texts)

    @property
    def perf(self) -> RKLLMPerfStat:
        return self.events[-1][0].perf


def prompt(text: str, **fields: Any) -> RKLLMInput:
    return RKLLMInput(prompt_input=text, **fields)


def ids(*tokens: int) -> RKLLMInput:
    given = RKLLMTokenInput(input_ids=list(tokens), n_tokens=len(tokens))
    return RKLLMInput(input_type=InputType.RKLLM_INPUT_TOKEN, token_input=given)

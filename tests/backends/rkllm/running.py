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
    RKLLMResult,
    RKLLMTokenInput,
)
from tests.backends import runs

NORMAL, WAITING, FINISH = (CallState.RKLLM_RUN_NORMAL, CallState.RKLLM_RUN_WAITING, CallState.RKLLM_RUN_FINISH)


class Run(runs.Run):
    """A run; its inference parameters are given by their fields."""

    def __init__(
        self,
        model: IRuntimeModel,
        input: str | RKLLMInput | list[RKLLMInput] = "one two three",
        delivery: Delivery = Delivery(),  # noqa: B008  # frozen
        onResult: Callable[[RKLLMResult, CallState], None] = lambda result, state: None,
        prepare: bool = True,
        **inferParam: Any,
    ) -> None:
        super().__init__(model, input, RKLLMInferParam(**inferParam), onResult, prepare, delivery)


def prompt(text: str, **fields: Any) -> RKLLMInput:
    return RKLLMInput(prompt_input=text, **fields)


def ids(*tokens: int) -> RKLLMInput:
    given = RKLLMTokenInput(input_ids=list(tokens), n_tokens=len(tokens))
    return RKLLMInput(input_type=InputType.RKLLM_INPUT_TOKEN, token_input=given)

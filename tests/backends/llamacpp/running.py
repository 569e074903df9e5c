"""Short ways to run a model, and llama.cpp with a witness."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from rkllm_twisted.backends.llamacpp.library import Library, theLibrary
from rkllm_twisted.interfaces import IRuntimeModel
from rkllm_twisted.values import (
    CallState,
    Delivery,
    InputType,
    RKLLMInferParam,
    RKLLMInput,
    RKLLMPerfStat,
    RKLLMResult,
    RKLLMSamplingParam,
)

WHOLE = Delivery()


class Run:
    """A run and what came of it."""

    def __init__(
        self,
        model: IRuntimeModel,
        prompt: str | RKLLMInput,
        inferParam: RKLLMInferParam | None = None,
        onResult: Callable[[RKLLMResult, CallState], None] = lambda result, state: None,
        prepare: bool = True,
        delivery: Delivery = WHOLE,
    ) -> None:
        self.events: list[tuple[RKLLMResult, CallState]] = []

        def received(result: RKLLMResult, state: CallState) -> None:
            self.events.append((result, state))
            onResult(result, state)

        if isinstance(prompt, str):
            prompt = RKLLMInput(input_type=InputType.RKLLM_INPUT_PROMPT, prompt_input=prompt)
        if prepare:
            model.prepare()
        self.reason = model.run(prompt, inferParam or RKLLMInferParam(), received, delivery)

    @property
    def results(self) -> list[RKLLMResult]:
        """All but the FINISH, which must be the last."""
        states = [state for _, state in self.events]
        assert states.index(CallState.RKLLM_RUN_FINISH) == len(states) - 1
        return [result for result, _ in self.events[:-1]]

    @property
    def text(self) -> str:
        return "".join(result.text or "" for result in self.results)

    @property
    def tokens(self) -> list[int]:
        return [result.token_id for result in self.results]

    @property
    def perf(self) -> RKLLMPerfStat:
        return self.events[-1][0].perf


GREEDY = RKLLMSamplingParam(top_k=1, repeat_penalty=1.0)


def greedy(**fields: Any) -> RKLLMInferParam:
    """Inference parameters of a greedy run without penalties."""
    return RKLLMInferParam(sampling_params=GREEDY, **fields)


class RecordedFunctions:
    """The C functions of the library.

    Attributes:
        calls: The names and arguments of the calls so far.
        answers: What to call instead of a function, by its name.
    """

    def __init__(self, c: Any) -> None:
        self._c = c
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.answers: dict[str, Callable[..., Any]] = {}

    def __getattr__(self, name: str) -> Any:
        function = self.answers.get(name) or getattr(self._c, name)

        def call(*arguments: Any) -> Any:
            self.calls.append((name, arguments))
            return function(*arguments)

        return call

    def count(self, name: str) -> int:
        """How often a function was called."""
        return sum(called == name for called, _ in self.calls)


def recordedLibrary() -> Library:
    """The library of the process, with `RecordedFunctions` of its own."""
    library = copy.copy(theLibrary())
    library.c = RecordedFunctions(library.c)
    return library

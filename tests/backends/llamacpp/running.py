"""Greedy runs, and llama.cpp with a witness."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from rkllm_twisted.backends.llamacpp.library import Library, theLibrary
from rkllm_twisted.values import (
    RKLLMInferParam,
    RKLLMSamplingParam,
)

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

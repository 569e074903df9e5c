"""A blocking runtime that does what a test tells it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from zope.interface import implementer

from rkllm_twisted.backends import RuntimeModel
from rkllm_twisted.backends.scripted import echo
from rkllm_twisted.errors import ModelLoadFailed
from rkllm_twisted.interfaces import IRuntime, IRuntimeModel, OnResult
from rkllm_twisted.values import (
    CallState,
    Capability,
    Delivery,
    RKLLMInferParam,
    RKLLMInput,
    RKLLMParam,
    RKLLMPerfStat,
    RKLLMResult,
)

Tokens = Iterable[str]


@implementer(IRuntime)
class ScriptedRuntime:
    """Says the tokens of a script, in the thread that calls it.

    Args:
        script: The tokens of the answer to an input. It may block, and raise.
        finishes: False leaves out the FINISH at the end, as a faulty runtime does.
        states: States reported before the end, such as ERROR.
        initialised: Called in the thread of `init`; may block and raise.
    """

    name = "scripted-runtime"
    capabilities = frozenset({Capability.PROMPT_INPUT, Capability.MAX_NEW_TOKENS_PER_RUN})

    def __init__(
        self,
        script: Callable[[RKLLMInput], Tokens] = echo,
        finishes: bool = True,
        states: Iterable[CallState] = (),
        initialised: Callable[[], object] = lambda: None,
    ) -> None:
        self.script = script
        self.finishes = finishes
        self.states = tuple(states)
        self.models: list[ScriptedRuntimeModel] = []
        self._initialised = initialised

    def createDefaultParam(self) -> RKLLMParam:
        """See `IRuntime`."""
        return RKLLMParam(max_context_len=4096, max_new_tokens=-1)

    def checkParam(self, param: RKLLMParam) -> None:
        """See `IRuntime`."""
        if not param.model_path:
            raise ModelLoadFailed("model_path is empty")

    def init(self, param: RKLLMParam) -> IRuntimeModel:
        """See `IRuntime`."""
        self.checkParam(param)
        self._initialised()
        self.models.append(ScriptedRuntimeModel(self, param))
        return self.models[-1]


class ScriptedRuntimeModel(RuntimeModel):
    """See `ScriptedRuntime`.

    Attributes:
        calls: The names of the functions called, in order, with the ident of the thread.
    """

    def __init__(self, runtime: ScriptedRuntime, param: RKLLMParam) -> None:
        self.calls: list[tuple[str, int]] = []
        self._runtime = runtime
        self._limit = param.max_new_tokens
        self._isAborted = threading.Event()

    def prepare(self) -> None:
        """See `IRuntimeModel`."""
        self._isAborted.clear()

    def run(self, input: RKLLMInput, inferParam: RKLLMInferParam, onResult: OnResult, delivery: Delivery) -> str | None:
        """See `IRuntimeModel`."""
        self._called("run")
        limit = inferParam.max_new_tokens if inferParam.max_new_tokens > 0 else self._limit
        count, reason = 0, "stop"
        for count, token in enumerate(self._runtime.script(input), 1):  # counted for the figures
            if self._isAborted.is_set() or count - 1 == limit:
                count, reason = count - 1, "abort" if self._isAborted.is_set() else "length"
                break
            onResult(RKLLMResult(text=token, token_id=count), CallState.RKLLM_RUN_NORMAL)
        for state in self._runtime.states:
            onResult(RKLLMResult(), state)
        if self._runtime.finishes:
            perf = RKLLMPerfStat(prefill_tokens=len(list(echo(input))), generate_tokens=max(0, count - 1))
            onResult(RKLLMResult(perf=perf), CallState.RKLLM_RUN_FINISH)
        return reason

    def abort(self) -> None:
        """See `IRuntimeModel`."""
        self._called("abort")
        self._isAborted.set()

    def destroy(self) -> None:
        """See `IRuntimeModel`."""
        self._called("destroy")

    def _called(self, name: str) -> None:
        self.calls.append((name, threading.get_ident()))

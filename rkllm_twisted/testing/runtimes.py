"""A blocking runtime that does what a test tells it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from itertools import chain

from zope.interface import implementer

from rkllm_twisted.backends import RuntimeModel
from rkllm_twisted.backends.scripted import echo
from rkllm_twisted.errors import InvalidParams, ModelLoadFailed
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
VOCABULARY = 1000
"""How many tokens it knows by their ids."""


@implementer(IRuntime)
class ScriptedRuntime:
    """Says the tokens of a script, in the thread that calls it.

    A token is a word to it, and the id n is the word n. With ``keep_history`` it says the words of the earlier turns
    too.

    Args:
        script: The tokens of the answer to an input. It may block, and raise.
        finishes: False leaves out the FINISH at the end, as a faulty runtime does.
        states: States reported before the end, such as ERROR.
        initialised: Called in the thread of `init`; may block and raise.
    """

    name = "scripted-runtime"
    capabilities = frozenset(
        {
            Capability.PROMPT_INPUT,
            Capability.TOKEN_INPUT,
            Capability.MAX_NEW_TOKENS_PER_RUN,
            Capability.KEEP_HISTORY,
            Capability.CLEAR_KV_CACHE,
            Capability.KV_CACHE_SIZE,
        }
    )

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
        self._history: list[str] = []
        self._isAborted = threading.Event()

    def prepare(self) -> None:
        """See `IRuntimeModel`."""
        self._isAborted.clear()

    def run(self, input: RKLLMInput, inferParam: RKLLMInferParam, onResult: OnResult, delivery: Delivery) -> str | None:
        """See `IRuntimeModel`."""
        self._called("run")
        input = asText(input)
        earlier = self._history if inferParam.keep_history else []
        said = [*earlier, *echo(input)]
        self._history = said if inferParam.keep_history else []
        limit = inferParam.max_new_tokens if inferParam.max_new_tokens > 0 else self._limit
        count, reason = 0, "stop"
        for count, token in enumerate(chain(earlier, self._runtime.script(input)), 1):  # counted for the figures
            if self._isAborted.is_set() or count - 1 == limit:
                count, reason = count - 1, "abort" if self._isAborted.is_set() else "length"
                break
            onResult(RKLLMResult(text=token, token_id=count), CallState.RKLLM_RUN_NORMAL)
        for state in self._runtime.states:
            onResult(RKLLMResult(), state)
        if self._runtime.finishes:
            perf = RKLLMPerfStat(prefill_tokens=len(said), generate_tokens=max(0, count - 1))
            onResult(RKLLMResult(perf=perf), CallState.RKLLM_RUN_FINISH)
        return reason

    def clearKVCache(self, keepSystemPrompt: bool, ranges: list[tuple[int, int]] | None) -> None:
        """See `IRuntimeModel`."""
        for start, end in ranges or [(0, len(self._history))]:
            if end > len(self._history):
                raise InvalidParams(f"$.end_pos: expected at most {len(self._history)}, got {end}")
            del self._history[start:end]

    def getKVCacheSize(self) -> list[int]:
        """See `IRuntimeModel`."""
        return [len(self._history)]

    def abort(self) -> None:
        """See `IRuntimeModel`."""
        self._called("abort")
        self._isAborted.set()

    def destroy(self) -> None:
        """See `IRuntimeModel`."""
        self._called("destroy")

    def _called(self, name: str) -> None:
        self.calls.append((name, threading.get_ident()))


def asText(input: RKLLMInput) -> RKLLMInput:
    """Tokens as the prompt that they are; any other input as it is.

    Raises:
        InvalidParams: An id is not of the `VOCABULARY`.
    """
    if input.token_input is None:
        return input
    for index, token in enumerate(input.token_input.input_ids):
        if token >= VOCABULARY:
            where = f"$.rkllm_input.token_input.input_ids[{index}]"
            raise InvalidParams(f"{where}: expected less than {VOCABULARY}, got {token}")
    return RKLLMInput(prompt_input=" ".join(map(str, input.token_input.input_ids)))

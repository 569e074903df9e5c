"""A backend that says the prompt again, with all that a backend of a third party needs."""

from __future__ import annotations

import re
from threading import Event
from time import monotonic

from zope.interface import implementer

from rkllm_twisted.backends import RuntimeModel
from rkllm_twisted.errors import ModelLoadFailed
from rkllm_twisted.interfaces import IRuntime, OnResult
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


@implementer(IRuntime)
class EchoRuntime:
    """Says every prompt again.

    Args:
        times: How often, 1 or more.
    """

    name = "echo"
    capabilities = frozenset({Capability.PROMPT_INPUT, Capability.MAX_NEW_TOKENS_PER_RUN})

    def __init__(self, times: int = 1) -> None:
        self._times = times

    def createDefaultParam(self) -> RKLLMParam:
        """As many tokens as the prompt has."""
        return RKLLMParam(max_context_len=4096, max_new_tokens=-1)

    def checkParam(self, param: RKLLMParam) -> None:
        """Any name will do for a model, but there must be one.

        Raises:
            ModelLoadFailed: There is none.
        """
        if not param.model_path:
            raise ModelLoadFailed("model_path is empty")

    def init(self, param: RKLLMParam) -> EchoModel:
        """Loads nothing."""
        self.checkParam(param)
        return EchoModel(self._times, param.max_new_tokens)


class EchoModel(RuntimeModel):
    """One run at a time, in a thread of its own; `abort` comes from another."""

    def __init__(self, times: int, longest: int) -> None:
        self._times = times
        self._longest = longest
        self._isAborted = Event()

    def prepare(self) -> None:
        """An abort of the last run is none of the next."""
        self._isAborted.clear()

    def run(self, input: RKLLMInput, inferParam: RKLLMInferParam, onResult: OnResult, delivery: Delivery) -> str:
        """Say the words, one a token, and why it ended."""
        began = monotonic()
        prompt = re.findall(r"\s*\S+", input.prompt_input or "")
        words = prompt * self._times
        longest = inferParam.max_new_tokens if inferParam.max_new_tokens > 0 else self._longest
        said, reason = words[:longest] if longest > 0 else words, "stop"
        for number, word in enumerate(said):
            if self._isAborted.is_set():
                said, reason = said[:number], "abort"
                break
            onResult(RKLLMResult(text=word, token_id=number), CallState.RKLLM_RUN_NORMAL)
        milliseconds = (monotonic() - began) * 1000
        perf = RKLLMPerfStat(prefill_tokens=len(prompt), generate_time_ms=milliseconds, generate_tokens=len(said))
        onResult(RKLLMResult(perf=perf), CallState.RKLLM_RUN_FINISH)
        return "length" if reason == "stop" and len(said) < len(words) else reason

    def abort(self) -> None:
        """End the run."""
        self._isAborted.set()

    def destroy(self) -> None:
        """Nothing to free."""


def makeBackend(options: dict[str, str]) -> EchoRuntime:
    """For ``--backend echo`` and ``--backend echo:times=2``.

    Raises:
        ValueError: An option is wrong; the daemon says this and does not start.
    """
    times = options.pop("times", "1")
    if not times.isdecimal() or int(times) < 1:
        raise ValueError(f"times: expected a whole number of 1 or more, got {times!r}")
    if options:
        raise ValueError(f"{next(iter(options))}: unknown option, the echo backend takes times")
    return EchoRuntime(int(times))

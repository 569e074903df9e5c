"""One run: tokens in, results out, until it has ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rkllm_twisted.backends.llamacpp.loaded import Loaded
from rkllm_twisted.backends.llamacpp.sampling import SamplerChain
from rkllm_twisted.backends.utf8 import WholeCharacters
from rkllm_twisted.interfaces import OnResult
from rkllm_twisted.values import CallState, RKLLMPerfStat, RKLLMResult

STOP, LENGTH, ABORT = "stop", "length", "abort"


class Generation:
    """A run in progress, in the one thread of its model.

    Args:
        loaded: The model; its context holds nothing that the prompt does not follow.
        chain: How to choose tokens. Not closed here.
        onResult: Gets the results.
        skipSpecial: Whether special tokens, the end token among them, have no text.
        ignoreEnd: Whether an end token is a token like any other.
        seconds: A monotonic clock.
    """

    def __init__(
        self,
        loaded: Loaded,
        chain: SamplerChain,
        onResult: OnResult,
        *,
        skipSpecial: bool,
        ignoreEnd: bool,
        seconds: Callable[[], float],
    ) -> None:
        self._loaded = loaded
        self._chain = chain
        self._onResult = onResult
        self._skipSpecial = skipSpecial
        self._ignoreEnd = ignoreEnd
        self._seconds = seconds
        self._characters = WholeCharacters()
        self._generated = 0

    def run(self, prompt: list[int], most: int) -> str:
        """Read the prompt and generate.

        Args:
            prompt: At least one token.
            most: How many tokens to generate at most, at least one; the context has room for them.

        Returns:
            Why it ended.

        Raises:
            RuntimeCallFailed: llama.cpp failed; there is no FINISH then.
        """
        started = self._seconds()
        fed = not self._loaded.isStopped() and self._loaded.feed(prompt)
        prefilled = self._seconds()
        reason = self._generate(most) if fed else ABORT
        self._finish(
            RKLLMPerfStat(
                prefill_time_ms=(prefilled - started) * 1000,
                prefill_tokens=len(prompt) if fed else 0,
                generate_time_ms=(self._seconds() - prefilled) * 1000,
                generate_tokens=max(0, self._generated - 1),
                memory_usage_mb=peakMemory(),
            )
        )
        return reason

    def _generate(self, most: int) -> str:
        while True:
            token = self._chain.sample(self._loaded.context)
            self._report(token)
            if not self._ignoreEnd and self._loaded.isEnd(token):
                return STOP
            if self._generated == most:
                return LENGTH
            if not self._loaded.feed([token]):
                return ABORT

    def _report(self, token: int) -> None:
        self._generated += 1
        text = self._characters.add(self._loaded.piece(token, special=not self._skipSpecial))
        waits = text is None and self._characters.isWaiting()
        state = CallState.RKLLM_RUN_WAITING if waits else CallState.RKLLM_RUN_NORMAL
        self._onResult(RKLLMResult(text=text or None, token_id=token), state)

    def _finish(self, perf: RKLLMPerfStat) -> None:
        if left := self._characters.end():
            self._onResult(RKLLMResult(text=left, token_id=-1), CallState.RKLLM_RUN_NORMAL)
        self._onResult(RKLLMResult(perf=perf), CallState.RKLLM_RUN_FINISH)


def peakMemory(status: Path = Path("/proc/self/status")) -> float:
    """VmHWM of this process in MB, which is what RKLLM reports; 0 where it cannot be read."""
    try:
        lines = status.read_text("ascii", "replace").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)

"""The figures of a run by our own count: for the releases before 1.2.1, which give none, and for runs that were ended
before their end.
"""

from __future__ import annotations

import resource
from collections.abc import Callable

from rkllm_twisted.values import RKLLMPerfStat


class Figures:
    """Counts and times the tokens of a run, from now on.

    Args:
        promptTokens: As far as is known: how many a text has, only the library knows.
        seconds: A monotonic clock.

    Attributes:
        tokens: How many have come.
    """

    def __init__(self, promptTokens: int, seconds: Callable[[], float]) -> None:
        self.tokens = 0
        self._promptTokens = promptTokens
        self._seconds = seconds
        self._first = self._last = self._started = seconds()

    def token(self) -> None:
        """One has come."""
        self._last = self._seconds()
        if self.tokens == 0:
            self._first = self._last
        self.tokens += 1

    def perf(self) -> RKLLMPerfStat:
        """What the library would say: it counts the tokens after the first (measured on 1.3.1)."""
        return RKLLMPerfStat(
            prefill_time_ms=(self._first - self._started) * 1000,
            prefill_tokens=self._promptTokens,
            generate_time_ms=(self._last - self._first) * 1000,
            generate_tokens=max(0, self.tokens - 1),
            memory_usage_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        )

"""What scripts/lives.py draws the lives of: a generation, the child process that it is in, and all that can happen.

The objects are the real ones; the process below them is not, so that it does what the events say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from rkllm_twisted.backends.isolated import calls, keeping
from rkllm_twisted.backends.isolated.generation import IsolatedGeneration
from rkllm_twisted.backends.isolated.keeping import KeptChild
from rkllm_twisted.backends.isolated.limits import Limits
from rkllm_twisted.errors import BackendLost, ModelLoadFailed, RKLLMError, RuntimeCallFailed
from rkllm_twisted.values import NO_PERF, CallState, RKLLMParam, RKLLMResult

Events = dict[str, Callable[[], object]]


class Subject:
    """Something that lives.

    Attributes:
        name: Of its picture.
        title: Its heading.
        words: What the heading is followed by.
        said: What it has told others since the last event.
    """

    name = ""
    title = ""
    words = ""

    def __init__(self) -> None:
        self.said: list[str] = []

    def state(self) -> str:
        """The name of the state that it is in; empty when it has ended."""
        raise NotImplementedError

    def events(self) -> Events:
        """What can happen to it now."""
        raise NotImplementedError


class FakeChild:
    """A process that does what the events say. Its part of `ChildProcess` is what `KeptChild` and a generation use."""

    def __init__(self, ended: Callable[[BackendLost], object] = lambda lost: None) -> None:
        self.pid, self.startedAt, self.isIdle = 1, 0.0, True
        self.gone: Deferred[None] = Deferred()
        self.isKilled = False
        self.hung = ""
        self.calls: list[tuple[str, Deferred[bytes]]] = []
        self._ended = ended

    def call(self, name: str, *arguments: object, onResults: object = None) -> Deferred[bytes]:
        """Asked for something."""
        self.onResults: Any = onResults
        self.calls.append((name, Deferred()))
        return self.calls[-1][1]

    def kill(self) -> None:
        """Its end is another event."""
        self.isKilled = True

    def hang(self, what: str) -> None:
        """The same, with the reason."""
        self.hung = what
        self.kill()

    def abort(self) -> None:
        """The run's end is another event."""

    def answer(self, outcome: object) -> None:
        """The call that it was asked first."""
        self.calls.pop(0)[1].callback(outcome)  # type: ignore[arg-type]  # a Failure makes it fail

    def end(self) -> None:
        """As `ChildProcess` does it: first the keeper knows, then whoever waits for an answer."""
        waiting, self.calls = self.calls, []
        self._ended(BackendLost("its process was killed by SIGSEGV", signal="SIGSEGV"))
        for _, done in waiting:
            done.errback(Failure(BackendLost()))
        self.gone.callback(None)


class GenerationLife(Subject):
    """A generation in a child process: a first result, others, and how long each step may take."""

    name = "generation"
    title = "A generation in a child"
    words = (
        "`rkllm_twisted.backends.isolated.generation.IsolatedGeneration`. What takes too long costs the child its "
        "life: prefill (`--prefill-limit`, `--prefill-token-limit`), a token (`--token-limit`), the end of an abort "
        "(`--abort-limit`). In prefill an abort does not shorten the time, since the NPU's runtime is deaf to it there."
    )

    def __init__(self) -> None:
        super().__init__()
        self._clock = Clock()
        self.limits = Limits()
        self._child = FakeChild()
        self._isReady = self._isAborted = self._hasEnded = self._hasResult = False
        self._ready: Deferred[Any] = Deferred()
        self._generation = IsolatedGeneration(self._clock, self, self, prefillLimit=60)  # type: ignore[arg-type]  # it is all of them
        self._generation.start("run").addBoth(self._generation.ended)

    def ready(self) -> Deferred[Any]:
        """As of `KeptChild`."""
        return self._ready

    def resultsReceived(self, results: object) -> None:
        """As of `IResultReceiver`."""
        self._hasResult = True
        self.said.append("result")

    def generationFinished(self, perf: object, reason: str | None) -> None:
        """As of `IResultReceiver`."""
        self._hasEnded = True
        self.said.append(f"finished, {reason}")

    def generationFailed(self, failure: Failure) -> None:
        """As of `IResultReceiver`."""
        self._hasEnded = True
        self.said.append(f"failed, {failure.value.code}")

    def state(self) -> str:
        if self._hasEnded:
            return ""
        if self._child.isKilled:
            return "child is killed"
        if not self._isReady:
            return "waits for a child"
        step = "decode" if self._hasResult else "prefill"
        return f"aborted in {step}" if self._isAborted else step

    def events(self) -> Events:
        if not self._isReady:
            return {"aborted": self._abort, "ready": self._become, "no child will come": self._lose}
        dies: Events = {"the child has ended": self._child.end}
        if self._child.isKilled:
            return dies
        end = calls.packAnswer(calls.RunEnd("stop", NO_PERF, False))
        return {
            **dies,
            "aborted": self._abort,
            "result": lambda: self._child.onResults([(RKLLMResult(text="so"), CallState.RKLLM_RUN_NORMAL)]),
            "the run has returned": lambda: self._child.answer(end),
            "the run has failed": lambda: self._child.answer(failed()),
            "too long": self._wait,
        }

    def _abort(self) -> None:
        self._isAborted = True
        self._generation.abort()
        self._clock.advance(0)

    def _become(self) -> None:
        self._isReady = True
        self._ready.callback(self._child)

    def _lose(self) -> None:
        self._ready.errback(Failure(BackendLost()))

    def _wait(self) -> None:
        started = self._clock.seconds()
        while not self._child.isKilled:
            self._clock.advance(1)
        self.said.append(f"after {self._clock.seconds() - started:.0f} s: {self._child.hung}")


class ChildLife(Subject):
    """The child that is kept for a model. The second death in a row is one too many here; see --max-crashes."""

    name = "child"
    title = "A child"
    words = (
        "`rkllm_twisted.backends.isolated.keeping.KeptChild`: one process at a time, for as long as the model is "
        "loaded. *Returning* is a new process, in which is done again what the journal says: the model, its adapters, "
        "template, tools and prompt cache. For this diagram `--max-crashes` is 2."
    )
    LIMITS = Limits(crashes=2, memory=100)

    def __init__(self) -> None:
        super().__init__()
        self._clock = Clock()
        self._children: list[FakeChild] = []
        self._size = 0
        self._isStartable = True
        self._isLoaded = self._isRetired = False
        with self._measured():
            self._kept = KeptChild(self._clock, self._spawn, self.LIMITS)  # type: ignore[arg-type]  # stands for a process
            self._kept.start(RKLLMParam(model_path="any", max_context_len=512, max_new_tokens=-1)).addCallbacks(
                self._loaded, self._notLoaded
            )

    def _measured(self) -> Any:
        return patch.object(keeping, "residentBytes", lambda pid: self._size)

    def _spawn(self, ended: Callable[[BackendLost], object]) -> FakeChild:
        if not self._isStartable:
            raise OSError(11, "Resource temporarily unavailable")
        self._children.append(FakeChild(lambda lost: self._lost(lost, ended)))
        return self._children[-1]

    def _lost(self, lost: BackendLost, ended: Callable[[BackendLost], object]) -> None:
        ended(lost)
        self.said.append("restarting" if lost.data["restarting"] else "not restarting")

    def _loaded(self, outcome: object) -> None:
        self._isLoaded = True

    def _notLoaded(self, failure: Failure) -> None:
        self.said.append(f"rkllm.init fails with {codeOf(failure)}")

    @property
    def _child(self) -> FakeChild:
        return self._children[-1]

    def state(self) -> str:
        if self._child.gone.called:
            return ""
        if self._child.isKilled:
            return "killed for good" if self._kept.isGivenUp or not self._isLoaded else "killed"
        if not self._isLoaded:
            return "loading"
        if not self._kept.isReady:
            return "returning"
        return "ready, the last" if self._isRetired else "ready"

    def events(self) -> Events:
        events: Events = {
            "it has died": self._child.end,
            "the model is destroyed": self._kept.stop,
        }
        if self._isLoaded and not self._isRetired and not self._kept.isGivenUp:
            events["it has died, no process can be started"] = self._endForGood
        if self._child.isKilled:
            return events
        if self._child.calls:
            events["done"] = lambda: self._child.answer(b"")
            events["the model does not load"] = lambda: self._child.answer(Failure(ModelLoadFailed("no memory")))
            events["too long"] = lambda: self._clock.advance(self.LIMITS.init)
        if self._kept.isReady:
            events["too large, and idle"] = self._grow
            events["destroy is asked for"] = self._retire
        return {name: self._measuring(event) for name, event in events.items()}

    def _measuring(self, event: Callable[[], object]) -> Callable[[], object]:
        def happens() -> None:
            with self._measured():
                event()

        return happens

    def _endForGood(self) -> None:
        self._isStartable = False
        self._child.end()

    def _grow(self) -> None:
        self._size = 1000
        self._kept.exchangeIfLarge()
        self._size = 0

    def _retire(self) -> None:
        self._isRetired = True
        self._kept.retire()


def failed() -> Failure:
    """What a runtime may fail with."""
    return Failure(RuntimeCallFailed(function="rkllm_run", status=-1))


def codeOf(failure: Failure) -> int:
    """The code that a client sees."""
    assert isinstance(failure.value, RKLLMError)
    return failure.value.code

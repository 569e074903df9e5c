"""A backend in memory, without threads or a model: for tests and demonstrations, and the smallest one to copy.

It answers every prompt with the prompt's own words, one word a token. With ``keep_history`` it says the words of the
earlier turns too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, zip_longest
from typing import Annotated, Any

from msgspec import Meta, ValidationError, convert
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from rkllm_twisted.backends import OptionalFunctions, checkRun
from rkllm_twisted.errors import InvalidParams, ModelLoadFailed
from rkllm_twisted.interfaces import IGeneration, IModel, IModelBackend, IResultReceiver
from rkllm_twisted.values import (
    CallState,
    Capability,
    Delivery,
    RKLLMInferParam,
    RKLLMInput,
    RKLLMParam,
    RKLLMPerfStat,
    RKLLMResult,
    refuseParam,
)

Script = Callable[[RKLLMInput], Iterable[str]]
"""The tokens of the answer to an input; an exception while they are taken fails the generation there."""

Token = tuple[str, int | None]
"""A text, and of which input of a batch it is."""


def echo(input: RKLLMInput) -> Iterable[str]:
    """The words of the prompt, each with the space before it."""
    return re.findall(r"\s*\S+", input.prompt_input or "")


@implementer(IModelBackend)
class ScriptedBackend:
    """Speaks a script.

    Args:
        clock: Gives the time between two tokens.
        script: What is said.
        interval: Seconds between two tokens.
    """

    name = "scripted"
    capabilities = frozenset(
        {
            Capability.PROMPT_INPUT,
            Capability.MAX_NEW_TOKENS_PER_RUN,
            Capability.KEEP_HISTORY,
            Capability.CLEAR_KV_CACHE,
            Capability.KV_CACHE_SIZE,
            Capability.BATCHES,
        }
    )

    def __init__(self, clock: IReactorTime, script: Script = echo, interval: float = 0.0) -> None:
        self._clock = clock
        self._script = script
        self._interval = interval

    def createDefaultParam(self) -> RKLLMParam:
        """Any ``model_path`` will do; -1 as ``max_new_tokens`` is no limit."""
        return RKLLMParam(max_context_len=4096, max_new_tokens=-1)

    def checkParam(self, param: RKLLMParam) -> Deferred[None]:
        """A name is needed, nothing else."""
        return maybeDeferred(self._check, param)

    def _check(self, param: RKLLMParam) -> None:
        refuseParam(param, self.capabilities)
        if not param.model_path:
            raise ModelLoadFailed("model_path is empty")

    def init(self, param: RKLLMParam) -> Deferred[IModel]:
        """There is nothing to load."""
        return self.checkParam(param).addCallback(
            lambda _: ScriptedModel(
                self._clock, self._script, self._interval, param.max_new_tokens, param.extend_param.n_batch
            )
        )


@implementer(IModel)
class ScriptedModel(OptionalFunctions):
    """See `ScriptedBackend`.

    Args:
        clock: As there.
        script: As there.
        interval: As there.
        limit: The most tokens of an answer; -1 is no limit.
        batch: How many inputs `runBatch` takes.
    """

    capabilities = ScriptedBackend.capabilities
    epoch = 0

    def __init__(self, clock: IReactorTime, script: Script, interval: float, limit: int, batch: int = 1) -> None:
        self._clock = clock
        self._script = script
        self._interval = interval
        self._limit = limit
        self._batch = batch
        self._history: list[str] = []
        self._isDestroyed = False
        self._generation: ScriptedGeneration | None = None

    def run(
        self, input: RKLLMInput, inferParam: RKLLMInferParam, receiver: IResultReceiver, delivery: Delivery
    ) -> IGeneration:
        """See `IModel`."""
        checkRun(self, self._isDestroyed, [input], inferParam)
        earlier = self._history if inferParam.keep_history else []
        said = [*earlier, *echo(input)]
        self._history = said if inferParam.keep_history else []
        tokens = ((text, None) for text in chain(earlier, self._script(input)))
        return self._start(tokens, inferParam, len(said), receiver)

    def runBatch(
        self, inputs: list[RKLLMInput], inferParam: RKLLMInferParam, receiver: IResultReceiver, delivery: Delivery
    ) -> IGeneration:
        """See `IModel`. The token limit is of all together, history is not kept."""
        checkRun(self, self._isDestroyed, inputs, inferParam)
        rounds = zip_longest(*map(self._script, inputs))
        tokens = ((text, index) for each in rounds for index, text in enumerate(each) if text is not None)
        return self._start(tokens, inferParam, len(inputs), receiver)

    def _start(
        self, tokens: Iterator[Token], inferParam: RKLLMInferParam, promptTokens: int, receiver: IResultReceiver
    ) -> IGeneration:
        limit = inferParam.max_new_tokens if inferParam.max_new_tokens > 0 else self._limit
        self._generation = ScriptedGeneration(self._clock, tokens, self._interval, limit, promptTokens, receiver)
        return self._generation

    def isRunning(self) -> bool:
        """See `IModel`."""
        return self._generation is not None and not self._generation.hasEnded

    def abort(self) -> None:
        """See `IModel`."""
        if self._generation is not None:
            self._generation.abort()

    def clearKVCache(self, keepSystemPrompt: bool, ranges: list[tuple[int, int]] | None) -> Deferred[None]:
        """See `IModel`. A token is a word."""
        [(start, end), *others] = ranges or [(0, len(self._history))]
        if others or end > len(self._history):
            raise InvalidParams(f"$.end_pos: expected one number up to {len(self._history)}, the words in the cache")
        del self._history[start:end]
        return succeed(None)

    def getKVCacheSize(self) -> Deferred[list[int]]:
        """See `IModel`. Several inputs at once leave nothing in it."""
        return succeed([len(self._history), *[0] * (self._batch - 1)])

    def destroy(self) -> Deferred[None]:
        """See `IModel`."""
        self._isDestroyed = True
        self.abort()
        done: Deferred[None] = Deferred()
        ended = self._generation.ended if self._generation is not None else succeed(None)
        ended.addCallback(done.callback)
        return done


@implementer(IGeneration)
class ScriptedGeneration:
    """One token at each step of the clock.

    Args:
        clock: Gives the time.
        tokens: What is said.
        interval: Seconds between two tokens, and before the first.
        limit: The most tokens; -1 is no limit.
        promptTokens: Of the prompt, for the figures.
        receiver: Of the results.

    Attributes:
        ended: Fires when the receiver has been told the ending.
        hasEnded: Whether it is over; true before the receiver is told.
    """

    def __init__(
        self,
        clock: IReactorTime,
        tokens: Iterator[Token],
        interval: float,
        limit: int,
        promptTokens: int,
        receiver: IResultReceiver,
    ) -> None:
        self.ended: Deferred[None] = Deferred()
        self.hasEnded = False
        self._clock = clock
        self._tokens = tokens
        self._interval = interval
        self._limit = limit
        self._promptTokens = promptTokens
        self._receiver = receiver
        self._count = 0
        self._began = clock.seconds()
        self._next = clock.callLater(interval, self._step)
        self._isAborted = False

    def abort(self) -> None:
        """See `IGeneration`."""
        if not self._isAborted and not self.hasEnded:
            self._isAborted = True
            self._next.reset(0)

    def _step(self) -> None:
        if self._isAborted:
            self._finish("abort")
        elif self._count == self._limit:
            self._finish("length")
        else:
            self._say()

    def _say(self) -> None:
        try:
            token = next(self._tokens, None)
        except Exception:  # noqa: BLE001  # a script may raise what it likes
            failure = Failure()
            self._end(lambda: self._receiver.generationFailed(failure))
            return
        if token is None:
            self._finish("stop")
            return
        self._next = self._clock.callLater(self._interval, self._step)
        self._count += 1
        result = RKLLMResult(text=token[0], token_id=self._count, batch_index=token[1])
        self._receiver.resultsReceived([(result, CallState.RKLLM_RUN_NORMAL)])

    def _finish(self, reason: str) -> None:
        elapsed = (self._clock.seconds() - self._began) * 1000
        perf = RKLLMPerfStat(
            prefill_tokens=self._promptTokens, generate_time_ms=elapsed, generate_tokens=max(0, self._count - 1)
        )
        self._end(lambda: self._receiver.generationFinished(perf, reason))

    def _end(self, tell: Callable[[], None]) -> None:
        # The receiver may start the next run at once, so this one is over before it is told.
        self.hasEnded = True
        tell()
        self.ended.callback(None)


def makeBackend(options: dict[str, str]) -> ScriptedBackend:
    """For ``--backend scripted`` and ``scripted:interval=SECONDS``."""
    from twisted.internet import reactor

    clock: Any = reactor
    try:
        interval = convert(options.pop("interval", "0"), Annotated[float, Meta(ge=0, le=3600)], strict=False)
    except ValidationError:
        raise ValueError("interval: expected seconds up to 3600, such as 0.05") from None
    if options:
        raise ValueError(f"{next(iter(options))}: unknown option, the scripted backend takes interval")
    return ScriptedBackend(clock, interval=interval)

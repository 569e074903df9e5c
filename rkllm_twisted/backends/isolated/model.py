"""A model in a child process, seen from the reactor's thread."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rkllm_twisted.backends import checkRun
from rkllm_twisted.backends.isolated import calls
from rkllm_twisted.backends.isolated.generation import IsolatedGeneration
from rkllm_twisted.backends.isolated.keeping import KeptChild, cancelling
from rkllm_twisted.errors import ModelNotInitialized, NotSupported
from rkllm_twisted.interfaces import IGeneration, IModel, IResultReceiver
from rkllm_twisted.values import (
    Capability,
    Delivery,
    RKLLMCrossAttnParam,
    RKLLMInferParam,
    RKLLMInput,
    RKLLMLoraAdapter,
)


@implementer(IModel)
class IsolatedModel:
    """See the module.

    Args:
        reactor: Tells the time.
        capabilities: Of the runtime.
        kept: The child, in which the model is loaded.
        contextLength: The most tokens of a prompt.
    """

    log = Logger()

    def __init__(self, reactor: Any, capabilities: frozenset[Capability], kept: KeptChild, contextLength: int) -> None:
        self.capabilities = capabilities
        self._reactor = reactor
        self._kept = kept
        self._contextLength = contextLength
        self._generation: IsolatedGeneration | None = None
        self._destruction: Deferred[None] | None = None

    @property
    def epoch(self) -> int:
        """See `IModel`."""
        return self._kept.epoch

    # Runs

    def run(
        self, input: RKLLMInput, inferParam: RKLLMInferParam, receiver: IResultReceiver, delivery: Delivery
    ) -> IGeneration:
        """See `IModel`."""
        return self._start("run", input, [input], inferParam, receiver, delivery)

    def runBatch(
        self, inputs: list[RKLLMInput], inferParam: RKLLMInferParam, receiver: IResultReceiver, delivery: Delivery
    ) -> IGeneration:
        """See `IModel`."""
        return self._start("runBatch", inputs, inputs, inferParam, receiver, delivery)

    def _start(
        self,
        name: str,
        given: object,
        inputs: list[RKLLMInput],
        inferParam: RKLLMInferParam,
        receiver: IResultReceiver,
        delivery: Delivery,
    ) -> IGeneration:
        checkRun(self, self._destruction is not None, inputs, inferParam)
        limit = self._kept.limits.ofPrefill(inputs, self._contextLength, self._kept.around())
        generation = self._generation = IsolatedGeneration(self._reactor, self._kept, receiver, limit)
        generation.start(name, given, inferParam, delivery).addBoth(self._ended, generation)
        return generation

    def _ended(self, outcome: Any, generation: IsolatedGeneration) -> None:
        self._generation = None
        self._kept.exchangeIfLarge()
        generation.ended(outcome)

    def isRunning(self) -> bool:
        """See `IModel`."""
        return self._generation is not None

    def abort(self) -> None:
        """See `IModel`."""
        if self._generation is not None:
            self._generation.abort()

    def destroy(self) -> Deferred[None]:
        """See `IModel`. A child that does not do it in time is killed, and the model is gone all the same."""
        if self._destruction is None:
            self.abort()
            self._destruction = self._destroyed()
        done: Deferred[None] = Deferred()
        self._destruction.addCallback(_handOn, done)
        return done

    def _destroyed(self) -> Deferred[None]:
        kept = self._kept
        if not kept.isReady:
            return kept.stop()
        kept.retire()
        impatience = self._reactor.callLater(kept.limits.abort, self._expired)
        asked = kept.ready().addCallback(lambda child: child.call("destroy")).addBoth(cancelling, impatience)
        return asked.addErrback(self._notDestroyed).addBoth(lambda _: kept.stop())

    def _expired(self) -> None:
        self._kept.hang("destroy took too long")

    def _notDestroyed(self, failure: Failure) -> None:
        self.log.warn("the model was not destroyed as it should be: {reason}", reason=failure.getErrorMessage())

    # The functions

    def _call(self, name: str, *arguments: Any) -> Deferred[bytes]:
        if (capability := calls.NEEDS[name]) not in self.capabilities:
            raise NotSupported(needs=capability.value)
        if self._destruction is not None:
            raise ModelNotInitialized("this model is destroyed")
        return self._kept.call(name, *arguments)

    def loadLora(self, adapter: RKLLMLoraAdapter) -> Deferred[None]:
        """See `IModel`."""
        return self._call("loadLora", adapter).addCallback(_nothing)

    def loadPromptCache(self, path: str) -> Deferred[None]:
        """See `IModel`."""
        return self._call("loadPromptCache", path).addCallback(_nothing)

    def releasePromptCache(self) -> Deferred[None]:
        """See `IModel`."""
        return self._call("releasePromptCache").addCallback(_nothing)

    def clearKVCache(self, keepSystemPrompt: bool, ranges: list[tuple[int, int]] | None) -> Deferred[None]:
        """See `IModel`."""
        return self._call("clearKVCache", keepSystemPrompt, ranges).addCallback(_nothing)

    def getKVCacheSize(self) -> Deferred[list[int]]:
        """See `IModel`."""
        return self._call("getKVCacheSize").addCallback(calls.unpackAnswer, list[int])

    def setChatTemplate(self, systemPrompt: str, promptPrefix: str, promptPostfix: str) -> Deferred[None]:
        """See `IModel`."""
        return self._call("setChatTemplate", systemPrompt, promptPrefix, promptPostfix).addCallback(_nothing)

    def setFunctionTools(self, systemPrompt: str, tools: str, toolResponse: str) -> Deferred[None]:
        """See `IModel`."""
        return self._call("setFunctionTools", systemPrompt, tools, toolResponse).addCallback(_nothing)

    def setCrossAttnParams(self, params: RKLLMCrossAttnParam) -> Deferred[None]:
        """See `IModel`."""
        return self._call("setCrossAttnParams", params).addCallback(_nothing)


def _nothing(answer: bytes) -> None:
    """The answer of a function that returns nothing."""


def _handOn(outcome: None, done: Deferred[None]) -> None:
    """Let one more Deferred fire as this one does."""
    done.callback(outcome)

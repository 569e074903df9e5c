"""A blocking runtime as an asynchronous backend: the only module that knows threads.

Each model has a thread of its own, in which every call of the runtime is made. A run's results come back in batches:
the callback appends to a deque and schedules one callFromThread if none is pending, so that a fast model costs one
wake-up of the reactor for each batch and not for each token.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Thread
from typing import Any, ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorThreads
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from rkllm_twisted.backends import checkParam, checkRun
from rkllm_twisted.backends.endings import failureOf
from rkllm_twisted.errors import RuntimeCallFailed
from rkllm_twisted.interfaces import (
    IGeneration,
    IModel,
    IModelBackend,
    IResultReceiver,
    IRuntime,
    IRuntimeModel,
    OnResult,
)
from rkllm_twisted.values import (
    NO_PERF,
    CallState,
    Delivery,
    Received,
    RKLLMCrossAttnParam,
    RKLLMInferParam,
    RKLLMInput,
    RKLLMLoraAdapter,
    RKLLMParam,
    RKLLMPerfStat,
    RKLLMResult,
    refuseParam,
)

Value = TypeVar("Value")
Arguments = ParamSpec("Arguments")


@implementer(IModelBackend)
class ThreadedBackend:
    """Runs a blocking runtime in threads.

    Args:
        runtime: The runtime.
        reactor: Whose thread the results come back to; the process's own by default.
    """

    def __init__(self, runtime: IRuntime, reactor: IReactorThreads | None = None) -> None:
        self.name = runtime.name
        self.capabilities = runtime.capabilities
        self._runtime = runtime
        self._reactor = reactor or _globalReactor()

    def createDefaultParam(self) -> RKLLMParam:
        """See `IModelBackend`."""
        return self._runtime.createDefaultParam()

    def checkParam(self, param: RKLLMParam) -> Deferred[None]:
        """See `IModelBackend`. Runs in a thread of the reactor's own pool: a model may be busy in its thread."""
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), checkParam, self._runtime, param)

    def init(self, param: RKLLMParam) -> Deferred[IModel]:
        """See `IModelBackend`. The thread that loads the model is the one that will run it."""
        thread = OneThread(self._reactor)
        return thread.call(self._init, param).addCallbacks(
            lambda model: ThreadedModel(model, self._runtime, thread), thread.stop
        )

    def _init(self, param: RKLLMParam) -> IRuntimeModel:
        refuseParam(param, self.capabilities)
        return self._runtime.init(param)


class OneThread:
    """A thread in which calls are made one after another.

    Args:
        reactor: Whose thread calls for them, and gets what they return.
    """

    def __init__(self, reactor: IReactorThreads) -> None:
        self.reactor = reactor
        self._pool = _DaemonThreads(1, 1, "model")
        self._pool.start()

    def call(
        self, function: Callable[Arguments, Value], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Deferred[Value]:
        """Fires in the reactor's thread with what the function returns, or fails with what it raises."""
        return deferToThreadPool(self.reactor, self._pool, function, *args, **kwargs)

    def stop(self, outcome: Value) -> Value:
        """End the thread, which must have nothing left to do; hands ``outcome`` on."""
        self._pool.stop()
        return outcome


class _DaemonThread(Thread):
    """A thread that is stuck inside a runtime must not keep the process from ending."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "daemon": True})


class _DaemonThreads(ThreadPool):
    threadFactory = _DaemonThread


@implementer(IModel)
class ThreadedModel:
    """A model of a blocking runtime in its thread.

    Args:
        model: The model.
        runtime: Its runtime.
        thread: The thread that loaded it.
    """

    def __init__(self, model: IRuntimeModel, runtime: IRuntime, thread: OneThread) -> None:
        self.capabilities = runtime.capabilities
        self.epoch = 0
        self._model = model
        self._thread = thread
        self._generation: ThreadedGeneration | None = None
        self._destruction: Deferred[None] | None = None

    def run(
        self, input: RKLLMInput, inferParam: RKLLMInferParam, receiver: IResultReceiver, delivery: Delivery
    ) -> IGeneration:
        """See `IModel`."""
        checkRun(self, self._destruction is not None, [input], inferParam)
        return self._start(receiver, lambda onResult: self._model.run(input, inferParam, onResult, delivery))

    def runBatch(
        self, inputs: list[RKLLMInput], inferParam: RKLLMInferParam, receiver: IResultReceiver, delivery: Delivery
    ) -> IGeneration:
        """See `IModel`."""
        checkRun(self, self._destruction is not None, inputs, inferParam)
        return self._start(receiver, lambda onResult: self._model.runBatch(inputs, inferParam, onResult, delivery))

    def _start(self, receiver: IResultReceiver, run: Callable[[OnResult], str | None]) -> ThreadedGeneration:
        # From here on an abort is meant for this run, also one that comes before the thread has begun it.
        self._model.prepare()
        generation = self._generation = ThreadedGeneration(self._model, receiver, self._thread.reactor)
        self._thread.call(run, generation.onResult).addBoth(self._returned, generation)
        return generation

    def _returned(self, outcome: str | Failure | None, generation: ThreadedGeneration) -> None:
        self._generation = None
        generation.returned(outcome)

    def isRunning(self) -> bool:
        """See `IModel`."""
        return self._generation is not None

    def abort(self) -> None:
        """See `IModel`."""
        if self._generation is not None:
            self._generation.abort()

    def destroy(self) -> Deferred[None]:
        """See `IModel`. The one thread does it after whatever it is doing."""
        if self._destruction is None:
            self.abort()
            self._destruction = self._thread.call(self._model.destroy).addBoth(self._thread.stop)
        done: Deferred[None] = Deferred()
        self._destruction.addBoth(_handOn, done)
        return done

    def loadLora(self, adapter: RKLLMLoraAdapter) -> Deferred[None]:
        """See `IModel`."""
        return self._thread.call(self._model.loadLora, adapter)

    def loadPromptCache(self, path: str) -> Deferred[None]:
        """See `IModel`."""
        return self._thread.call(self._model.loadPromptCache, path)

    def releasePromptCache(self) -> Deferred[None]:
        """See `IModel`."""
        return self._thread.call(self._model.releasePromptCache)

    def clearKVCache(self, keepSystemPrompt: bool, ranges: list[tuple[int, int]] | None) -> Deferred[None]:
        """See `IModel`."""
        return self._thread.call(self._model.clearKVCache, keepSystemPrompt, ranges)

    def getKVCacheSize(self) -> Deferred[list[int]]:
        """See `IModel`."""
        return self._thread.call(self._model.getKVCacheSize)

    def setChatTemplate(self, systemPrompt: str, promptPrefix: str, promptPostfix: str) -> Deferred[None]:
        """See `IModel`."""
        return self._thread.call(self._model.setChatTemplate, systemPrompt, promptPrefix, promptPostfix)

    def setFunctionTools(self, systemPrompt: str, tools: str, toolResponse: str) -> Deferred[None]:
        """See `IModel`."""
        return self._thread.call(self._model.setFunctionTools, systemPrompt, tools, toolResponse)

    def setCrossAttnParams(self, params: RKLLMCrossAttnParam) -> Deferred[None]:
        """See `IModel`."""
        return self._thread.call(self._model.setCrossAttnParams, params)


@implementer(IGeneration)
class ThreadedGeneration:
    """A run in the model's thread, and the way of its results into the reactor's.

    Args:
        model: Runs.
        receiver: Gets the results, in the reactor's thread.
        reactor: Whose thread that is.
    """

    log = Logger()

    def __init__(self, model: IRuntimeModel, receiver: IResultReceiver, reactor: IReactorThreads) -> None:
        self._model = model
        self._receiver = receiver
        self._reactor = reactor
        self._results: deque[tuple[RKLLMResult, CallState]] = deque()
        self._isDeliveryPending = False
        self._isAborted = False
        self._hasEnded = False
        self._perf: RKLLMPerfStat | None = None
        self._hasError = False

    def onResult(self, result: RKLLMResult, state: CallState) -> None:
        """Take a result, in any thread."""
        self._results.append((result, state))
        # `_deliver` takes the flag down before it empties the deque: whoever finds it up has appended in time.
        if not self._isDeliveryPending:
            self._isDeliveryPending = True
            self._reactor.callFromThread(self._deliver)

    def abort(self) -> None:
        """See `IGeneration`."""
        if not self._isAborted and not self._hasEnded:
            self._isAborted = True
            self._model.abort()

    def returned(self, outcome: str | Failure | None) -> None:
        """The run has returned, or raised; in the reactor's thread, after all its results."""
        self._hasEnded = True
        failure = self._failureOf(outcome)
        if failure is not None:
            self._receiver.generationFailed(failure)
        else:
            reason = "abort" if self._isAborted or isinstance(outcome, Failure) else outcome
            self._receiver.generationFinished(self._perf or NO_PERF, reason)

    def _failureOf(self, outcome: str | Failure | None) -> Failure | None:
        """A run went well only if it returned and FINISH was seen; an aborted one may end as the runtime likes."""
        if isinstance(outcome, Failure):
            return None if self._isAborted and outcome.check(RuntimeCallFailed) else outcome
        error = None if self._isAborted else failureOf(self._perf, self._hasError)
        return None if error is None else Failure(error)

    def _deliver(self) -> None:
        self._isDeliveryPending = False
        received: list[Received] = []
        for _ in range(len(self._results)):  # what comes meanwhile has a delivery of its own
            result, state = self._results.popleft()
            if state is CallState.RKLLM_RUN_FINISH:
                self._perf = result.perf
            elif state is CallState.RKLLM_RUN_ERROR:
                self._hasError = True
            else:
                received.append((result, state))
        if received and not self._isAborted and not self._hasEnded:
            self._handOver(received)

    def _handOver(self, received: list[Received]) -> None:
        try:
            self._receiver.resultsReceived(received)
        except Exception:  # noqa: BLE001  # a receiver's defect must not cost the results behind it
            self.log.failure("a receiver failed")


def _handOn(outcome: Any, done: Deferred[Any]) -> Any:
    """Let one more Deferred fire as this one does; a failure is then that one's."""
    done.callback(outcome)
    return None if isinstance(outcome, Failure) else outcome


def _globalReactor() -> Any:
    from twisted.internet import reactor

    return reactor

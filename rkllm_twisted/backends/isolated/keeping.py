"""A child that is kept: started, brought to where the last one was when that has died, exchanged when it has grown."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from rkllm_twisted.backends.isolated.journal import Journal
from rkllm_twisted.backends.isolated.limits import Limits
from rkllm_twisted.backends.isolated.process import ChildProcess
from rkllm_twisted.errors import BackendLost, RKLLMError
from rkllm_twisted.values import RKLLMParam

Spawn = Callable[[Callable[[BackendLost], object]], ChildProcess]
"""Starts a child; calls back when that has ended."""


class KeptChild:
    """The child of one model.

    Args:
        reactor: Tells the time.
        spawn: Starts a child.
        limits: For it.

    Attributes:
        epoch: Counts the children that have ended: what the model kept of earlier runs is gone with each.
        isBusy: Whether a run is in progress, so that the child cannot be exchanged.
    """

    log = Logger()

    def __init__(self, reactor: Any, spawn: Spawn, limits: Limits) -> None:
        self.epoch = 0
        self.isBusy = False
        self.limits = limits
        self._reactor = reactor
        self._spawn = spawn
        self._journal = Journal()
        self._child: ChildProcess | None = None
        self._isReady = False
        self._isLoaded = False
        self._isExchanged = False
        self._givenUp: BackendLost | None = None
        self._waiting: list[Deferred[ChildProcess]] = []
        self._deaths: deque[float] = deque(maxlen=limits.crashes)
        self._ended: Deferred[None] | None = None
        self._look: Any = None

    # Its beginning and its end

    def start(self, param: RKLLMParam) -> Deferred[None]:
        """Start a child and load the model in it.

        Returns:
            Fires when it is loaded; fails as the runtime's `init`, or with BackendLost. There is no child then.
        """
        self._child = self._spawn(self._lost)
        return self._limited("init", param).addCallback(self._loaded, param).addErrback(self._notLoaded)

    def _loaded(self, answer: bytes, param: RKLLMParam) -> None:
        self._journal.done("init", (param,))
        self._isLoaded = True
        self._becomeReady()

    def _notLoaded(self, failure: Failure) -> Deferred[Any]:
        return self.stop().addCallback(lambda _: failure)

    def stop(self) -> Deferred[None]:
        """End the child, at once. Fires when it has ended."""
        self._giveUp(BackendLost("the model is destroyed"))
        if self._child is None:
            return succeed(None)
        if self._ended is None:
            self._ended = Deferred()
        done: Deferred[None] = Deferred()
        self._ended.addCallback(lambda _: done.callback(None))
        return done

    def _giveUp(self, lost: BackendLost) -> None:
        """Start no child any more."""
        self._givenUp = self._givenUp or lost
        self._isReady = False
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.errback(Failure(lost))
        if self._child is not None:
            self._child.kill()

    def _lost(self, lost: BackendLost) -> None:
        """The child has ended. What it was asked for fails with this too."""
        self._isReady = False
        self._child = None
        self.epoch += 1
        if self._look is not None and self._look.active():
            self._look.cancel()
        if self._givenUp is None and self._isLoaded:
            self._diedWhileNeeded(lost)
        if self._ended is not None:
            self._ended.callback(None)

    def _diedWhileNeeded(self, lost: BackendLost) -> None:
        wasExchanged, self._isExchanged = self._isExchanged, False
        if not wasExchanged:
            self.log.error("the model is lost: {reason}", reason=lost.detail)
            now, limits = self._reactor.seconds(), self.limits
            self._deaths.append(now)
            if len(self._deaths) == limits.crashes and now - self._deaths[0] <= limits.crashSeconds:
                times = f"its process has ended {limits.crashes} times within {limits.crashSeconds:g} s"
                self.log.critical("{times}: it is not started again before rkllm.init", times=times)
                self._giveUp(BackendLost(f"{times}; load the model again with rkllm.init", restarting=False))
                return
        self._restart()

    @property
    def isRestarting(self) -> bool:
        """Whether there will be a child again without a new `start`."""
        return self._givenUp is None

    # Its return

    def _restart(self) -> None:
        self._child = self._spawn(self._lost)
        Deferred.fromCoroutine(self._replay()).addErrback(self._notReplayed)

    async def _replay(self) -> None:
        began, load = self._reactor.seconds(), 0.0
        child = self._theChild()
        for name, arguments in self._journal.entries():
            try:
                await self._limited(name, *arguments)
            except RKLLMError as error:
                if name == "init" or isinstance(error, BackendLost):
                    raise
                self.log.error("{name} could not be done again: {reason}", name=name, reason=str(error))
            if name == "init":
                load = self._reactor.seconds() - (child.startedAt or began)
        rest = self._reactor.seconds() - began - load
        self.log.info(
            "the model is ready again after {rest} s without loading it, which took {load} s",
            rest=f"{rest:.3f}",
            load=f"{load:.3f}",
        )
        self._becomeReady()

    def _notReplayed(self, failure: Failure) -> None:
        if not failure.check(BackendLost):  # else `_lost` knows
            reason = failure.getErrorMessage()
            self.log.critical("the model cannot be loaded again: {reason}", reason=reason)
            self._giveUp(BackendLost(f"the model cannot be loaded again: {reason}", restarting=False))

    def _becomeReady(self) -> None:
        self._isReady = True
        if self.limits.memory is not None:
            self._look = self._reactor.callLater(self.limits.memorySeconds, self._lookAtMemory)
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(self._theChild())

    # Its memory

    def _lookAtMemory(self) -> None:
        self._look = self._reactor.callLater(self.limits.memorySeconds, self._lookAtMemory)
        self.exchangeIfLarge()

    def exchangeIfLarge(self) -> None:
        """Exchange the child for a new one if it is larger than it may be and not busy."""
        limit, child = self.limits.memory, self._child
        if limit is None or child is None or not self._isReady or self.isBusy:
            return
        if (size := residentBytes(child.pid)) > limit:
            self.log.warn(
                "the process of the model has {size} bytes, the limit is {limit}: it is exchanged",
                size=size,
                limit=limit,
            )
            self._isReady = False
            self._isExchanged = True
            child.kill()

    # Its use

    def ready(self) -> Deferred[ChildProcess]:
        """Fires with the child as soon as it can be used; fails with BackendLost if it never will be."""
        if self._givenUp is not None:
            return fail(self._givenUp)
        if self._isReady:
            return succeed(self._theChild())
        waiting: Deferred[ChildProcess] = Deferred()
        self._waiting.append(waiting)
        return waiting

    def call(self, name: str, *arguments: Any) -> Deferred[bytes]:
        """Have the child do something else than a run. Fires with its answer, packed."""

        def done(answer: bytes) -> bytes:
            self._journal.done(name, arguments)
            return answer

        return self.ready().addCallback(lambda _: self._limited(name, *arguments)).addCallback(done)

    def _theChild(self) -> ChildProcess:
        if self._child is None:
            raise BackendLost("its process has ended")
        return self._child

    def _limited(self, name: str, *arguments: Any) -> Deferred[bytes]:
        child = self._theChild()
        what = f"{name} took more than {self.limits.init:g} s"
        limit = self._reactor.callLater(self.limits.init, child.hang, what)
        return child.call(name, *arguments).addBoth(cancelling, limit)


def cancelling(outcome: Any, delayed: Any) -> Any:
    """Hand an outcome on, and cancel what would have been done without it."""
    if delayed.active():
        delayed.cancel()
    return outcome


def residentBytes(pid: int | None) -> int:
    """The resident memory of a process; 0 if it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * PAGE


PAGE = 4096

"""A child that is kept: started, brought to where the last one was when that has died, exchanged when it has grown."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from rkllm_twisted.backends.isolated.journal import Journal
from rkllm_twisted.backends.isolated.limits import Limits
from rkllm_twisted.backends.isolated.output import printable
from rkllm_twisted.backends.isolated.process import ChildProcess, again, cancel
from rkllm_twisted.errors import BackendLost, RKLLMError
from rkllm_twisted.values import RKLLMParam

Spawn = Callable[[Callable[[BackendLost], object]], ChildProcess]
"""Starts a child; calls back when that has ended."""
PAGE = os.sysconf("SC_PAGE_SIZE")
"""Bytes of a page, in which the kernel counts memory."""


class KeptChild:
    """The child of one model.

    Args:
        reactor: Tells the time.
        spawn: Starts a child.
        limits: For it.

    Attributes:
        epoch: Counts the children that have been of use and are no more: what the model kept of earlier runs is gone
            with each.
        limits: For the child.
    """

    log = Logger()

    def __init__(self, reactor: Any, spawn: Spawn, limits: Limits) -> None:
        self.epoch = 0
        self.limits = limits
        self._reactor = reactor
        self._spawn = spawn
        self._journal = Journal()
        self._child: ChildProcess | None = None
        self._isReady = False
        self._isLoaded = False
        self._isExchanged = False
        self._isRetired = False
        self._isTooLarge = False
        self._inVain = 0
        self._givenUp: BackendLost | None = None
        self._waiting: list[Deferred[ChildProcess]] = []
        self._deaths: deque[float] = deque(maxlen=limits.crashes)
        self._nextLook: Any = None

    # Its beginning and its end

    def start(self, param: RKLLMParam) -> Deferred[None]:
        """Start a child and load the model in it.

        Returns:
            Fires when it is loaded; fails as the runtime's ``init``, or with BackendLost. There is no child then.
        """
        try:
            self._begin()
        except BackendLost:
            return fail()
        return self._limited("init", param).addCallback(self._loaded, param).addErrback(self._notLoaded)

    def _begin(self) -> None:
        try:
            self._child = self._spawn(self._lost)
        except OSError as error:
            raise BackendLost(f"no process can be started: {error.strerror}", restarting=False) from error

    def _loaded(self, answer: bytes, param: RKLLMParam) -> None:
        self._journal.done("init", (param,))
        self._isLoaded = True
        self._becomeReady()

    def _notLoaded(self, failure: Failure) -> Deferred[Any]:
        return self.stop().addCallback(lambda _: failure)

    def stop(self) -> Deferred[None]:
        """End the child, at once. Fires when it has ended."""
        child = self._child
        self._giveUp(BackendLost("the model is destroyed", restarting=False))
        if child is None:
            return succeed(None)
        done: Deferred[None] = Deferred()
        child.gone.addCallback(lambda _: done.callback(None))
        return done

    def retire(self) -> None:
        """Start no child after this one; it may still be called."""
        self._isRetired = True

    def hang(self, what: str) -> None:
        """Kill the child, because it takes too long for something."""
        if self._child is not None:
            self._child.hang(what)

    def _giveUp(self, lost: BackendLost) -> None:
        """Start no child any more."""
        self._givenUp = self._givenUp or lost
        self._isReady = False
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.errback(Failure(again(lost)))
        if self._child is not None:
            self._child.kill()

    def _lost(self, lost: BackendLost) -> None:
        """The child has ended. What it was asked for fails with this too."""
        self._becomeUnready()
        self._child = None
        cancel(self._nextLook)
        if self._givenUp is None and self._isLoaded:
            self._diedWhileNeeded(lost)
        lost.data["restarting"] = self._givenUp is None and self._isLoaded

    def _becomeUnready(self) -> None:
        if self._isReady:
            self._isReady = False
            self.epoch += 1

    def _diedWhileNeeded(self, lost: BackendLost) -> None:
        if self._isRetired:
            self._giveUp(BackendLost("the model is destroyed", restarting=False))
            return
        wasExchanged, self._isExchanged = self._isExchanged, False
        if not wasExchanged:
            self.log.error("the model is lost: {reason}", reason=lost.detail)
            if (times := self._tooOften()) is not None:
                self.log.critical("{times}: it is not started again before rkllm.init", times=times)
                self._giveUp(BackendLost(f"{times}; load the model again with rkllm.init", restarting=False))
                return
        self._restart()

    def _tooOften(self) -> str | None:
        """One more death: what to say if this goes round in circles."""
        now, limits = self._reactor.seconds(), self.limits
        self._deaths.append(now)
        self._inVain += 1
        if len(self._deaths) == limits.crashes and now - self._deaths[0] <= limits.crashSeconds:
            return f"its process has ended {limits.crashes} times within {limits.crashSeconds:g} s"
        if self._inVain > limits.crashes:  # each may take longer than the time would allow
            return f"its process has ended {limits.crashes} times before the model was ready"
        return None

    # Its return

    def _restart(self) -> None:
        try:
            self._begin()
        except BackendLost as lost:
            self.log.critical("the model cannot be loaded again: {reason}", reason=lost.detail)
            self._giveUp(lost)
            return
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
                self.log.error("{name} could not be done again: {reason}", name=name, reason=printable(str(error)))
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
            self.log.critical("the model cannot be loaded again: {reason}", reason=printable(reason))
            # Where the file is is nothing for others than the client that has named it.
            path = self._journal.modelPath()
            told = reason.replace(path, "its file") if "/" in path else reason
            self._giveUp(BackendLost(f"the model cannot be loaded again: {told}", restarting=False))

    def _becomeReady(self) -> None:
        self._isReady = True
        self._inVain = 0
        if self.limits.memory is not None:
            self._beginToLook(self.limits.memory)
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(self._theChild())

    # Its memory

    def _beginToLook(self, limit: int) -> None:
        size = residentBytes(self._theChild().pid)
        self._isTooLarge = size > limit
        if self._isTooLarge:  # another would be no smaller
            self.log.warn(
                "the process of the model has {size} bytes as soon as it is loaded, the limit is {limit}: "
                "it is not exchanged",
                size=size,
                limit=limit,
            )
        self._lookLater()

    def _lookLater(self) -> None:
        self._nextLook = self._reactor.callLater(self.limits.memorySeconds, self._lookAtMemory)

    def _lookAtMemory(self) -> None:
        self._lookLater()
        self.exchangeIfLarge()

    def exchangeIfLarge(self) -> None:
        """Exchange the child for a new one if it is larger than it may be and not busy."""
        limit, child = self.limits.memory, self._child
        if limit is None or child is None or not self._isReady or not child.isIdle or self._isTooLarge:
            return
        if (size := residentBytes(child.pid)) > limit:
            self.log.warn(
                "the process of the model has {size} bytes, the limit is {limit}: it is exchanged",
                size=size,
                limit=limit,
            )
            self._becomeUnready()
            self._isExchanged = True
            child.kill()

    # Its use

    @property
    def isReady(self) -> bool:
        """Whether there is a child that can be used."""
        return self._isReady

    @property
    def isGivenUp(self) -> bool:
        """Whether no child is started any more, whatever is asked for."""
        return self._givenUp is not None

    def around(self) -> int:
        """The most tokens that the model puts around a prompt."""
        return self._journal.around()

    def ready(self) -> Deferred[ChildProcess]:
        """Fires with the child as soon as it can be used; fails with BackendLost, later, if it never will be."""
        if self._isReady:
            return succeed(self._theChild())
        waiting: Deferred[ChildProcess] = Deferred()
        if self._givenUp is None:
            self._waiting.append(waiting)
        else:
            self._reactor.callLater(0, waiting.errback, Failure(again(self._givenUp)))
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
    cancel(delayed)
    return outcome


def residentBytes(pid: int | None) -> int:
    """The resident memory of a process; 0 if it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * PAGE

"""A run in a child process: its results on their way to the receiver, and how long each step may take."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rkllm_twisted.backends.endings import failureOf
from rkllm_twisted.backends.isolated import calls
from rkllm_twisted.backends.isolated.keeping import KeptChild
from rkllm_twisted.backends.isolated.process import ChildProcess, cancel
from rkllm_twisted.errors import BackendLost, InternalError, RuntimeCallFailed
from rkllm_twisted.interfaces import IGeneration, IResultReceiver
from rkllm_twisted.values import NO_PERF, Received

NOT_BEGUN = calls.RunEnd("abort", NO_PERF, False)


@implementer(IGeneration)
class IsolatedGeneration:
    """See the module.

    Args:
        reactor: Tells the time.
        kept: The child.
        receiver: Of the results.
        prefillLimit: Seconds that the first result may take.
    """

    log = Logger()

    def __init__(self, reactor: Any, kept: KeptChild, receiver: IResultReceiver, prefillLimit: float) -> None:
        self._reactor = reactor
        self._kept = kept
        self._receiver = receiver
        self._prefillLimit = prefillLimit
        self._child: ChildProcess | None = None
        self._waiting: Deferred[Any] | None = None
        self._alarm: Any = None
        self._step = "prefill"
        self._isAborted = False
        self._hasEnded = False

    def start(self, name: str, *arguments: Any) -> Deferred[Any]:
        """Have it run, as soon as there is a child that can.

        Returns:
            Fires with the run's end, packed, or with None if it was aborted before it began.
        """
        self._waiting = self._kept.ready()
        return self._waiting.addCallback(self._begun, name, arguments).addErrback(self._notBegun)

    def _begun(self, child: ChildProcess, name: str, arguments: tuple[Any, ...]) -> Deferred[bytes] | None:
        if self._isAborted:
            return None
        self._child = child
        done = child.call(name, *arguments, onResults=self._resulted)
        self._expect(self._prefillLimit)
        return done

    def _expect(self, seconds: float) -> None:
        """Something must come within so many seconds."""
        if self._alarm is None or not self._alarm.active():
            self._alarm = self._reactor.callLater(seconds, self._expired)
        else:
            self._alarm.reset(seconds)

    def _expired(self) -> None:
        if self._child is not None:
            self._child.hang(f"{self._step} took too long")

    def _resulted(self, received: list[Received]) -> None:
        if self._isAborted or self._hasEnded:
            return
        self._step = "decode"
        self._expect(self._kept.limits.token)
        try:
            self._receiver.resultsReceived(received)
        except Exception:  # noqa: BLE001  # a receiver's defect must not cost the results behind it
            self.log.failure("a receiver failed")

    def abort(self) -> None:
        """See `IGeneration`."""
        if self._isAborted or self._hasEnded:
            return
        self._isAborted = True
        if self._child is None:
            self._reactor.callLater(0, self._withdraw)
        else:
            self._child.abort()
            # In prefill a runtime may be deaf to it: what the prefill may take counts on.
            if self._step == "decode" or self._prefillLimit < self._kept.limits.abort:
                self._step = "abort"
                self._expect(self._kept.limits.abort)

    def _withdraw(self) -> None:
        """Wait for a child no longer."""
        if self._waiting is not None and not self._hasEnded:
            self._waiting.cancel()

    def _notBegun(self, failure: Failure) -> Failure | None:
        """A run that was aborted while it waited has not begun, and nothing has failed."""
        if self._isAborted and self._child is None and failure.check(CancelledError, BackendLost):
            return None
        return failure

    def ended(self, outcome: Any) -> None:
        """The run has returned, raised, or was lost with its child; ``outcome`` is what `start` has fired with."""
        self._hasEnded = True
        cancel(self._alarm)
        if isinstance(outcome, Failure):
            self._failed(outcome)
            return
        try:
            end = NOT_BEGUN if outcome is None else calls.unpackAnswer(outcome, calls.RunEnd)
        except msgspec.DecodeError:
            self._failedUnreadably()
        else:
            self._returned(end)

    def _returned(self, end: calls.RunEnd) -> None:
        failure = None if self._isAborted else failureOf(end.perf, end.hasError)
        if failure is None:
            self._receiver.generationFinished(end.perf or NO_PERF, "abort" if self._isAborted else end.reason)
        else:
            self._receiver.generationFailed(Failure(failure))

    def _failedUnreadably(self) -> None:
        self.log.failure("a run ended with what cannot be read")
        if self._child is not None:
            self._child.kill()
        self._receiver.generationFailed(Failure(InternalError()))

    def _failed(self, failure: Failure) -> None:
        if self._isAborted and failure.check(RuntimeCallFailed):
            self._receiver.generationFinished(NO_PERF, "abort")
            return
        self._receiver.generationFailed(failure)

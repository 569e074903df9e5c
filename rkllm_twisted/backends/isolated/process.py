"""One child process: its pipes, what it prints, and how it ends."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from rkllm_twisted.backends.isolated import calls
from rkllm_twisted.backends.isolated.child import REQUESTS, RESULTS
from rkllm_twisted.backends.isolated.frames import FrameReader, Kind, frame
from rkllm_twisted.backends.isolated.output import Output
from rkllm_twisted.errors import BackendLost
from rkllm_twisted.values import Received

OnResults = Callable[[list[Received]], None]
TWISTED_READS = 8192
"""Bytes of a pipe that Twisted reads at a time (``twisted.internet.fdesc.readFromFD``)."""
PIPE = 2**20
"""Bytes that the pipe of results may hold, and that are read of it at a time."""
PATIENCE = 1.0
"""Seconds from the end of a child to that of its pipes: another process may have inherited them."""
STUCK = 10.0
"""Seconds from SIGKILL to the end of a child. Inside of a driver it lives on until that returns, which may be never."""


class ChildProcess(ProcessProtocol):
    """A child, from its start to its end.

    Args:
        reactor: Spawns it.
        description: Of the backend that it runs, as ``--backend`` has it.
        ended: Called with the reason when it has ended, before its calls fail with it.

    Attributes:
        pid: Its process id; None after its end.
        startedAt: When its program had started; None before.
        lost: How it ended; None before.
        gone: Fires after its end, when every call has failed with it.
    """

    log = Logger()

    def __init__(self, reactor: Any, description: str, ended: Callable[[BackendLost], object]) -> None:
        self.startedAt: float | None = None
        self.lost: BackendLost | None = None
        self.gone: Deferred[None] = Deferred()
        self._reactor = reactor
        self._ended = ended
        self._count = 0
        self._calls: dict[int, tuple[Deferred[bytes], OnResults | None]] = {}
        self._reader = FrameReader()
        self._onResults: OnResults | None = None
        self._results: list[Received] = []
        self._output = {1: Output(reactor, "stdout"), 2: Output(reactor, "stderr")}
        self._hung: str | None = None
        self._isUnreadable = False
        self._closing: Any = None
        self._abandoning: Any = None
        # Unbuffered, C's output too: what a runtime says before it dies is what one wants to know.
        command = [sys.executable, "-u", "-m", "rkllm_twisted.backends.isolated.child", description]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with open(os.devnull, "rb") as nothing:
            childFDs = {0: nothing.fileno(), 1: "r", 2: "r", REQUESTS: "w", RESULTS: "r"}
            self.transport: Any = reactor.spawnProcess(self, command[0], command, env=environ, childFDs=childFDs)
        with suppress(OSError):  # where the kernel allows no more, it stays as it is
            fcntl.fcntl(self.transport.pipes[RESULTS], fcntl.F_SETPIPE_SZ, PIPE)
        self.pid: int | None = self.transport.pid

    # Calls

    @property
    def isIdle(self) -> bool:
        """Whether it has been asked for nothing that it has not answered."""
        return not self._calls

    def call(self, name: str, *arguments: Any, onResults: OnResults | None = None) -> Deferred[bytes]:
        """Have the child do something.

        Args:
            name: Of `calls.ARGUMENTS`.
            arguments: Of its types.
            onResults: Gets the results of a run, as many at a time as have come.

        Returns:
            Fires with the answer, packed; fails with the child's error, or with BackendLost if it ends before.
        """
        self._count += 1
        done: Deferred[bytes] = Deferred()
        if self.lost is not None:
            done.errback(Failure(again(self.lost)))
            return done
        self._calls[self._count] = done, onResults
        self._write(frame(Kind.CALL, self._count, calls.packCall(name, arguments)))
        return done

    def abort(self) -> None:
        """Have the child end the run in progress."""
        self._write(frame(Kind.ABORT, 0))

    def _write(self, data: bytes) -> None:
        # The pipe of a child that is about to end, or of one that has closed it, may be gone already.
        if self.lost is None and REQUESTS in self.transport.pipes:
            self.transport.writeToChild(REQUESTS, data)

    # What comes

    def childDataReceived(self, fd: int, data: bytes) -> None:
        """A pipe of the child has something."""
        if fd != RESULTS:
            self._output[fd].received(data)
            return
        if self._isUnreadable or self.lost is not None:
            return
        if len(data) >= TWISTED_READS:
            data += self._rest()
        try:
            for kind, call, body in self._reader.receive(data):
                if kind is Kind.RESULT:
                    self._keep(call, body)
                else:
                    self._handOn()
                    self._received(kind, call, body)
        except Exception:  # noqa: BLE001  # the child's memory may be damaged: anything may come
            self.log.failure("the child {pid} sent what cannot be read", pid=self.pid)
            self._isUnreadable = True
            self.kill()
        self._handOn()

    def _rest(self) -> bytes:
        """What else there is of results. By Twisted's pieces a reply of 3 MB is 350 turns of the reactor."""
        try:
            return os.read(self.transport.pipes[RESULTS].fileno(), PIPE)
        except (OSError, KeyError):  # mostly: nothing
            return b""

    def _keep(self, call: int, body: bytes) -> None:
        """Keep a result until all that has come with it is read."""
        if call not in self._calls and 0 < call <= self._count:
            return  # a runtime may call back after the run has returned
        _done, onResults = self._calls[call]
        if onResults is not self._onResults:
            self._handOn()
            self._onResults = onResults
        self._results.append(calls.unpackResult(body))

    def _handOn(self) -> None:
        """Hand on the results that were kept."""
        onResults, results = self._onResults, self._results
        if results:
            self._onResults, self._results = None, []
            if onResults is not None:
                onResults(results)

    def _received(self, kind: Kind, call: int, body: bytes) -> None:
        if kind is Kind.READY:
            self.startedAt = self._reactor.seconds()
            return
        done, _onResults = self._calls[call]
        del self._calls[call]
        if kind is Kind.ANSWER:
            done.callback(body)
        else:
            done.errback(Failure(calls.unpackFailure(body)))

    # The end

    def hang(self, what: str) -> None:
        """Kill it, because it takes too long for something."""
        self._hung = self._hung or what
        self.kill()

    def kill(self) -> None:
        """Kill it. Where that does nothing it counts as ended all the same, and is left to itself."""
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess("KILL")
            if self._abandoning is None:
                self._abandoning = self._reactor.callLater(STUCK, self._abandon)

    def _abandon(self) -> None:
        hung = self._hung or "its end took too long"
        self.log.critical("the process {pid} cannot be killed: it is left to itself", pid=self.pid)
        self._end(BackendLost(f"its process hung: {hung}, and it cannot be killed", hung=hung))

    def processExited(self, reason: Failure) -> None:
        """It has ended; what is left in its pipes is still to come."""
        cancel(self._abandoning)
        self._closing = self._reactor.callLater(PATIENCE, self._closePipes)

    def _closePipes(self) -> None:
        for fd in list(self.transport.pipes):
            self.transport.closeChildFD(fd)

    def processEnded(self, reason: Failure) -> None:
        """It has ended, and its pipes are read to the end."""
        cancel(self._closing)
        for output in self._output.values():
            output.ended()
        if self.lost is None:
            self._end(self._lossOf(reason))

    def _end(self, lost: BackendLost) -> None:
        self.lost = lost
        self.pid = None
        waiting, self._calls = list(self._calls.values()), {}
        self._ended(lost)  # first, since whoever is told that a call has failed may make the next one at once
        for done, _ in waiting:
            done.errback(Failure(again(lost)))
        self.gone.callback(None)

    def _lossOf(self, reason: Failure) -> BackendLost:
        if self._hung is not None:
            return BackendLost(f"its process hung: {self._hung}", hung=self._hung)
        ended = reason.value
        if isinstance(ended, ProcessTerminated) and ended.signal is not None:
            name = nameOf(ended.signal)
            why = " because it sent what cannot be read" if self._isUnreadable else ""
            return BackendLost(f"its process was killed by {name}{why}", signal=name)
        code = 0 if isinstance(ended, ProcessDone) else getattr(ended, "exitCode", None)
        return BackendLost(f"its process ended with the exit code {code}", exit_code=code)


def cancel(delayed: Any) -> None:
    """Cancel a delayed call, if there is one and it is still to come."""
    if delayed is not None and delayed.active():
        delayed.cancel()


def nameOf(number: int) -> str:
    """The name of a signal; of those between SIGRTMIN and SIGRTMAX, which have none, ``SIG`` and the number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def again(lost: BackendLost) -> BackendLost:
    """The same loss for one more call: what is added to the data of one must not show in another."""
    return BackendLost(lost.detail, **lost.data)

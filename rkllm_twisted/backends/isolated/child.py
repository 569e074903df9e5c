"""The program in the child process: reads calls, carries them out with a blocking runtime, writes what comes of them.

The main thread reads, and aborts; another thread carries out one call after the other. File descriptor 3 brings calls,
4 takes results away; what the runtime prints goes where it prints it, and the parent reads that too.
"""

from __future__ import annotations

import ctypes
import logging
import os
import queue
import signal
import sys
import threading
from typing import Any

import msgspec

from rkllm_twisted.backends.isolated import calls
from rkllm_twisted.backends.isolated.frames import FrameReader, Kind, frame
from rkllm_twisted.errors import InternalError, InvalidParams, ModelNotInitialized, RKLLMError
from rkllm_twisted.interfaces import IRuntime, IRuntimeModel
from rkllm_twisted.values import CallState, Delivery, EncodedResult, RKLLMPerfStat, RKLLMResult
from rkllm_twisted.wire.spelling import Spelling

REQUESTS, RESULTS = 3, 4
PR_SET_PDEATHSIG = 1  # sys/prctl.h

logger = logging.getLogger(__name__)


class Child:
    """Carries out calls.

    Args:
        runtime: What carries them out.
        results: The file descriptor to write to.
    """

    def __init__(self, runtime: IRuntime, results: int) -> None:
        self._runtime = runtime
        self._results = results
        self._writing = threading.Lock()
        self._model: IRuntimeModel | None = None
        self._calls: queue.SimpleQueue[tuple[int, str, tuple[Any, ...]]] = queue.SimpleQueue()

    def serve(self, requests: int) -> None:
        """Read calls until there are no more, which is when the parent has gone or has had enough."""
        threading.Thread(target=self._work, name="runtime", daemon=True).start()
        self._write(Kind.READY, 0, b"")
        reader = FrameReader()
        while data := os.read(requests, 1 << 16):
            for kind, call, body in reader.receive(data):
                self._received(kind, call, body)

    def _received(self, kind: Kind, call: int, body: bytes) -> None:
        if kind is Kind.ABORT:
            self.abort()
            return
        try:
            name, arguments = calls.unpackCall(body)
        except msgspec.ValidationError as error:  # the caller is another program than the daemon's methods
            self._write(Kind.FAILURE, call, calls.packFailure(InvalidParams(str(error))))
            return
        if name in calls.RUNS and self._model is not None:
            self._model.prepare()  # an abort that is read after this is meant for this run
        self._calls.put((call, name, arguments))

    def _work(self) -> None:
        while True:
            call, name, arguments = self._calls.get()
            try:
                kind, body = Kind.ANSWER, calls.packAnswer(self._carryOut(call, name, arguments))
            except RKLLMError as error:
                kind, body = Kind.FAILURE, calls.packFailure(error)
            except BaseException:  # a defect of the runtime, sys.exit() included, must not end the thread
                logger.exception("%s failed", name)
                kind, body = Kind.FAILURE, calls.packFailure(InternalError())
            self._write(kind, call, body)

    def _carryOut(self, call: int, name: str, arguments: tuple[Any, ...]) -> object:
        if name == "init":
            self._model = self._runtime.init(*arguments)
            return None
        model = self._model
        if model is None:
            raise ModelNotInitialized
        if name == "destroy":
            self._model = None  # nothing is called afterwards
        if name in calls.RUNS:
            *given, delivery = arguments
            return RunInChild(self, call, delivery).run(getattr(model, name), given)
        return getattr(model, name)(*arguments)

    def abort(self) -> None:
        """End the run in progress."""
        try:
            if self._model is not None:
                self._model.abort()
        except Exception:  # a defect of the runtime must not end the thread that reads
            logger.exception("abort failed")

    def sendResult(self, call: int, result: RKLLMResult | EncodedResult, state: CallState) -> None:
        """Send a result of a run; blocks while the parent reads more slowly than the model speaks."""
        self._write(Kind.RESULT, call, calls.packResult(result, state))

    def _write(self, kind: Kind, call: int, body: bytes) -> None:
        data = memoryview(frame(kind, call, body))
        with self._writing:  # both threads write, and a frame may take several pieces
            try:
                while data:
                    data = data[os.write(self._results, data) :]
            except OSError:
                os._exit(0)  # the parent is gone


class RunInChild:
    """One run: its results on their way out.

    Args:
        child: Sends them.
        call: The call that they belong to.
        delivery: How they are spelled.
    """

    def __init__(self, child: Child, call: int, delivery: Delivery) -> None:
        self._child = child
        self._call = call
        self._delivery = delivery
        self._spelling = Spelling(delivery)
        self._perf: RKLLMPerfStat | None = None
        self._hasError = False
        self._rowBytes = 0
        self._failure: Exception | None = None

    def run(self, run: Any, given: list[Any]) -> calls.RunEnd:
        """Run, and return when it has ended.

        Raises:
            ResultTooLarge: A result was too long to be sent; the run was aborted.
            Exception: A result was none; the run was aborted.
        """
        reason = run(*given, self._resulted, self._delivery)
        if self._failure is not None:
            raise self._failure
        if not isinstance(reason, str | None):
            raise TypeError(f"a run returned {reason!r}, which is no reason to end")
        return calls.RunEnd(reason, self._perf, self._hasError)

    def _resulted(self, result: RKLLMResult, state: CallState) -> None:
        if state is CallState.RKLLM_RUN_FINISH:
            self._perf = result.perf
        elif state is CallState.RKLLM_RUN_ERROR:
            self._hasError = True
        elif self._failure is None:
            try:
                self._child.sendResult(self._call, self._spelled(result, state), state)
            except Exception as error:  # noqa: BLE001  # `run` raises it: nothing is raised into a callback of C
                self._failure = error
                self._child.abort()

    def _spelled(self, result: RKLLMResult, state: CallState) -> RKLLMResult | EncodedResult:
        """Results that become a line each are spelled here; those that are joined are not."""
        if self._delivery.stream != "lines":
            self._checkRows(result)
            return result
        return EncodedResult(self._spelling.result(result, state), result.token_id >= 0)

    def _checkRows(self, result: RKLLMResult) -> None:
        """Refuse rows that make what is joined too long, before they are sent."""
        hidden, logits = result.last_hidden_layer, result.logits
        size = len(hidden.hidden_states or b"") + len(logits.logits or b"")
        if self._delivery.rows == "last":
            self._rowBytes = min(size, 4 * (hidden.embd_size + logits.vocab_size))
        else:
            self._rowBytes += size
        self._delivery.checkTensors(self._rowBytes)


def dieWithParent() -> None:
    """Let the kernel kill this process when its parent is gone, whatever else it is doing."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def main() -> None:
    """``python -m rkllm_twisted.backends.isolated.child DESCRIPTION``"""
    dieWithParent()
    # The parent decides when a run ends and when this process does; a Ctrl-C in a terminal reaches both.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.INFO)
    from rkllm_twisted.backends import makeBackend

    runtime = makeBackend(sys.argv[1])
    assert IRuntime.providedBy(runtime)
    Child(runtime, RESULTS).serve(REQUESTS)
    os._exit(0)  # the other thread may be stuck in a runtime


if __name__ == "__main__":
    main()

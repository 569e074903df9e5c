"""One run: what the library calls back with, until ``rkllm_run`` has returned."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from msgspec import Struct, structs

from rkllm_twisted.backends.rkllm.families import Family
from rkllm_twisted.backends.rkllm.figures import Figures
from rkllm_twisted.backends.rkllm.interrupting import Interruption
from rkllm_twisted.backends.rkllm.pieces import Pieces
from rkllm_twisted.backends.rkllm.reading import hasTensors, perfOf, tensorsOf, textOf
from rkllm_twisted.interfaces import OnResult
from rkllm_twisted.values import (
    NO_HIDDEN_STATES,
    CallState,
    Delivery,
    InferMode,
    RKLLMPerfStat,
    RKLLMResult,
    RKLLMResultLastHiddenLayer,
    RKLLMResultLogits,
)

NORMAL = CallState.RKLLM_RUN_NORMAL
STOP, LENGTH, ABORT = "stop", "length", "abort"
HIDDEN_STATES_ALONE = 4
"""The state in which 1.1 reports hidden states; later releases do it in NORMAL."""
DATA = (CallState.RKLLM_RUN_NORMAL, CallState.RKLLM_RUN_WAITING, HIDDEN_STATES_ALONE)
GO_ON, RELEASE = 0, 2
"""What a callback returns. 2 frees the tensors at once, from 1.3 on (issue 504); before that nothing does. 1 would
pause the run: no FINISH comes then, and the next run goes on with this one instead of its own prompt."""


class Task(Struct, frozen=True):
    """What is asked of a run.

    Attributes:
        mode: What it computes.
        limit: The most tokens for each input.
        isLimited: Whether the library has been told the limit, and ends the run itself.
        count: How many inputs it has.
        promptTokens: Of all inputs, as far as is known.
        delivery: Bounds its tensors.
    """

    mode: InferMode
    limit: int
    isLimited: bool
    count: int
    promptTokens: int
    delivery: Delivery


class Run:
    """A run in progress.

    The library calls `received` in a thread of its choice; everything else happens in the model's thread, `abort`
    excepted.

    Args:
        family: Of the library.
        task: What is asked of it.
        onResult: Gets the results.
        interruption: Ends it.
        seconds: A monotonic clock.

    Attributes:
        defect: What went wrong in a callback; raise it after the run.
        error: What the library reported with the state ERROR; None if it did not.
        hasStarted: Whether the library has called back at all.
        hasFinished: Whether FINISH was seen.
        reason: Why it ended.
    """

    def __init__(
        self,
        family: Family,
        task: Task,
        onResult: OnResult,
        interruption: Interruption,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self.defect: Exception | None = None
        self.error: str | None = None
        self.hasStarted = False
        self.hasFinished = False
        self.reason: str | None = None
        self._family = family
        self._task = task
        self._onResult = onResult
        self._interruption = interruption
        self._pieces = [Pieces() for _ in range(task.count)]
        self._figures = Figures(task.promptTokens, seconds)
        self._perf: RKLLMPerfStat | None = None
        self._hadRows = False
        self._endsInText = True
        self._takesPlain = task.count == 1 and task.mode is InferMode.RKLLM_INFER_GENERATE and task.limit > 0

    # From the library

    def received(self, results: Any, state: int) -> int:
        """Take the results of one callback: one for each input, one after the other."""
        self.hasStarted = True
        try:
            if self._takesPlain and state == NORMAL and results:
                self._takePlain(results)
                return GO_ON
            hasRows = state in DATA and bool(results) and self._hasRows(results)
            if not self.hasFinished:
                self._take(results, state, hasRows)
        except Exception as defect:  # noqa: BLE001  # it must not reach C
            self.defect = defect
            self._takesPlain = False
            self._interruption.order()
            return GO_ON
        return RELEASE if hasRows and self._family.releasesBuffers else GO_ON

    def _takePlain(self, result: Any) -> None:
        """A token with its text and nothing else: `_take` for what comes most, in 1.5 us instead of 5.6."""
        piece = textOf(self._family.ffi, result)
        pieces = self._pieces[0]
        text = pieces.add(piece, False)
        isUnfinished = text is None and pieces.isWaiting()
        state = CallState.RKLLM_RUN_WAITING if isUnfinished else NORMAL
        self._onResult(RKLLMResult(text, max(result.token_id, -1)), state)
        self._figures.token()
        self._endsInText = bool(piece)
        if self._figures.tokens >= self._task.limit:
            self._takesPlain = False  # a further one is too many
            if not self._task.isLimited:
                self._end(LENGTH if piece else STOP)

    def _hasRows(self, results: Any) -> bool:
        return any(hasTensors(results[index], self._task.mode) for index in range(self._task.count))

    def _take(self, results: Any, state: int, hasRows: bool) -> None:
        if state == CallState.RKLLM_RUN_FINISH:
            self.hasFinished = True
            self._takesPlain = False
            self._perf = perfOf(results) if results and self._family.hasField("RKLLMResult", "perf") else None
        elif state == CallState.RKLLM_RUN_ERROR:
            self.error = textOf(self._family.ffi, results).decode("utf-8", "replace") if results else ""
        elif self.wasInterrupted or state not in DATA or not results:
            return  # the library obeys in its own time
        elif self._isFull(hasRows):
            self._end(LENGTH)
        else:
            self._handOn(results, state)
            self._hadRows |= hasRows
            if self._isFull(hasRows=False) and not self._task.isLimited:
                self._end(LENGTH if self._endsInText else STOP)

    def _isFull(self, hasRows: bool) -> bool:
        """Whether a further result is too many. For hidden states, results without rows may come before them."""
        if self._wantsHiddenStates:
            return self._hadRows and not hasRows
        return self._figures.tokens >= self._task.limit

    @property
    def _wantsHiddenStates(self) -> bool:
        return self._task.mode is InferMode.RKLLM_INFER_GET_LAST_HIDDEN_LAYER

    def _end(self, reason: str) -> None:
        self.reason = self.reason or reason
        self._takesPlain = False
        self._interruption.order()

    def _handOn(self, results: Any, state: int) -> None:
        # All of them are copied before any is handed on: one may be too large.
        tensors = [self._tensorsOf(results[index]) for index in range(self._task.count)]
        texts = [self._handOnOne(results[index], index, state, *both) for index, both in enumerate(tensors)]
        if state != HIDDEN_STATES_ALONE and any(text is not None for text in texts):
            self._figures.token()
        if self._task.mode is InferMode.RKLLM_INFER_GENERATE:
            self._endsInText = any(texts) or state == CallState.RKLLM_RUN_WAITING

    def _tensorsOf(self, result: Any) -> tuple[RKLLMResultLastHiddenLayer, RKLLMResultLogits]:
        return tensorsOf(self._family.ffi, result, self._task.mode, self._task.delivery)

    def _handOnOne(
        self, result: Any, index: int, state: int, hidden: RKLLMResultLastHiddenLayer, logits: RKLLMResultLogits
    ) -> bytes | None:
        """Hand on the result of one input.

        Returns:
            Its text as it came; None where nothing came.
        """
        pieces, isToken = self._pieces[index], state != HIDDEN_STATES_ALONE
        piece = textOf(self._family.ffi, result) if isToken else b""
        if self._wantsHiddenStates and hidden is NO_HIDDEN_STATES and not piece:
            return None  # seen first of all on 1.2.1b1 (issue 278)
        isWaiting = state == CallState.RKLLM_RUN_WAITING
        text = pieces.add(piece, isWaiting)
        isUnfinished = text is None and (isWaiting or pieces.isWaiting())
        self._onResult(
            RKLLMResult(
                text=text,
                token_id=max(result.token_id, -1) if isToken else -1,  # any negative one: this input has ended
                last_hidden_layer=hidden,
                logits=logits,
                batch_index=self._indexOf(index),
            ),
            CallState.RKLLM_RUN_WAITING if isUnfinished else CallState.RKLLM_RUN_NORMAL,
        )
        return piece

    def _indexOf(self, index: int) -> int | None:
        return index if self._task.count > 1 else None

    # From the model

    @property
    def wasInterrupted(self) -> bool:
        """Whether its end was ordered, by whomever."""
        return self.reason is not None or self.defect is not None

    def close(self) -> None:
        """The library has returned."""
        self._interruption.close()

    def abort(self) -> None:
        """End the run; nothing that comes from now on is handed on. From any thread."""
        self._end(ABORT)

    def finish(self) -> str:
        """The run has returned and went well: hand on what is left, and the FINISH.

        Returns:
            Why it ended. The library does not tell: the end token has no text where special tokens are skipped
            (measured on 1.3.1), and a run that is over before its limit has come to its end token too.
        """
        for index, pieces in enumerate(self._pieces):
            if left := pieces.end():
                result = RKLLMResult(text=left, token_id=-1, batch_index=self._indexOf(index))
                self._onResult(result, CallState.RKLLM_RUN_NORMAL)
        self._onResult(RKLLMResult(perf=self._figuresOf(self._perf)), CallState.RKLLM_RUN_FINISH)
        if self.reason is not None:
            return self.reason
        return LENGTH if self._isFull(hasRows=False) and self._endsInText else STOP

    def _figuresOf(self, perf: RKLLMPerfStat | None) -> RKLLMPerfStat:
        own = self._figures.perf()
        if perf is None or not self.wasInterrupted:
            return perf or own
        # The library counts tokens that it generated before it obeyed, and that nobody got.
        return structs.replace(perf, generate_time_ms=own.generate_time_ms, generate_tokens=own.generate_tokens)

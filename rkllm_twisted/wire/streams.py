"""How the results of a run are spelled: as lines, as progress, or whole (W-STREAM, W-FINISH, W-OPTIONS)."""

from __future__ import annotations

from collections.abc import Sequence

from rkllm_twisted.errors import Cancelled, ReaderTooSlow, ResultTooLarge, RKLLMError
from rkllm_twisted.values import (
    NO_PERF,
    CallState,
    Delivery,
    EncodedResult,
    Received,
    RKLLMPerfStat,
    RKLLMResult,
)
from rkllm_twisted.wire.connection import Call
from rkllm_twisted.wire.joining import Joined
from rkllm_twisted.wire.messages import NO_ID, encode, errorObject, notificationLine, resultLine
from rkllm_twisted.wire.spelling import Spelling

BURST = 2**16
"""The bytes of lines after which it is looked how much waits for the client."""


class LineStream:
    """A stream spelled as one line for each result.

    Args:
        call: The call that it answers.
        spelling: Of the results.
    """

    def __init__(self, call: Call, spelling: Spelling) -> None:
        self._call = call
        self._id = call.id or NO_ID
        self._spelling = spelling
        self._hasStarted = False

    def acknowledge(self, message: str) -> None:
        """The line that ``rkllm.run_async`` sends first."""
        self._call.write(resultLine(self._id, encode({"success": True, "message": message})))

    def results(self, results: Sequence[Received]) -> None:
        """Data, as many as there are: one write for all of them costs half as much as one for each.

        Raises:
            ResultTooLarge: One of them; it and those behind it are not sent.
            ReaderTooSlow: More waits for the client than may (W-SLOW); nor are they then.
        """
        place = 0
        while place < len(results):
            if self._call.connection.isCongested():
                raise ReaderTooSlow("more waits for this client than may; read the stream faster")
            place = self._writeFrom(results, place)

    def _writeFrom(self, results: Sequence[Received], place: int) -> int:
        """Write results until they are long enough to look how much waits; returns the place of the next."""
        lines: list[bytes] = []
        size = 0
        try:
            while place < len(results) and size < BURST:
                lines.append(line := self._line(*results[place]))
                size += len(line)
                place += 1
        finally:
            self._hasStarted |= bool(lines)
            if size:
                self._call.write(b"".join(lines))
        return place

    def _line(self, result: RKLLMResult | EncodedResult, state: CallState) -> bytes:
        return resultLine(self._id, self._spelling.result(result, state))

    def finish(self, perf: RKLLMPerfStat, reason: str | None, **more: object) -> bool:
        """The last line of a run that ended well, or that was aborted (W-CANCEL).

        Returns:
            Whether that was a finish line: not if it was aborted before its first data line, or had its last line.
        """
        if self._call.isEnded:
            return False
        if reason == "abort" and not self._hasStarted:
            self._call.fail(Cancelled())
            return False
        known = {} if reason is None else {"finish_reason": reason}
        self._end(CallState.RKLLM_RUN_FINISH, perf, {**known, **more})
        return True

    def fail(self, error: RKLLMError) -> None:
        """The last line of a run that failed: an error, or inside the last result once there was data."""
        if self._hasStarted:
            self._end(CallState.RKLLM_RUN_ERROR, NO_PERF, {"error": errorObject(error)})
        else:
            self._call.fail(error)

    def _end(self, state: CallState, perf: RKLLMPerfStat, more: dict[str, object]) -> None:
        self._call.finish(self._spelling.long(RKLLMResult(token_id=-1, perf=perf), int(state), **more))


class WholeStream(LineStream):
    """A stream spelled as one response: the text joined, the last state, and the figures.

    Rows of tensors are joined too.
    """

    def __init__(self, call: Call, spelling: Spelling) -> None:
        super().__init__(call, spelling)
        self._joined = Joined(spelling.rows)

    def acknowledge(self, message: str) -> None:
        """There is only one response, and it comes at the end."""

    def _line(self, result: RKLLMResult | EncodedResult, state: CallState) -> bytes:
        """It is kept."""
        if isinstance(result, EncodedResult):
            raise TypeError("an encoded result cannot be joined to others")
        self._joined.add(result)
        self._spelling.checkTensors(self._joined.bytes)
        return b""

    def _end(self, state: CallState, perf: RKLLMPerfStat, more: dict[str, object]) -> None:
        try:
            body = self._spelling.long(self._joined.result(perf), int(state), **more)
        except ResultTooLarge as error:
            self._call.fail(error)
        else:
            self._call.finish(body)


class ProgressStream(WholeStream):
    """A stream spelled as a ``$/progress`` notification for each result, the last included, and then as a whole."""

    def _line(self, result: RKLLMResult | EncodedResult, state: CallState) -> bytes:
        super()._line(result, state)
        return self._notification(self._spelling.result(result, state))

    def _end(self, state: CallState, perf: RKLLMPerfStat, more: dict[str, object]) -> None:
        self._call.write(
            self._notification(self._spelling.long(RKLLMResult(token_id=-1, perf=perf), int(state), **more))
        )
        super()._end(state, perf, more)

    def _notification(self, result: bytes) -> bytes:
        return notificationLine(b"$/progress", b'{"token":%b,"value":%b}' % (self._id, result))


_STREAMS = {"lines": LineStream, "progress": ProgressStream, "whole": WholeStream}


def openStream(call: Call, delivery: Delivery) -> LineStream:
    """The stream that a call asked for; inside a batch it is whole, whatever was asked."""
    kind = _STREAMS["whole" if call.batch is not None else delivery.stream]
    return kind(call, Spelling(delivery))

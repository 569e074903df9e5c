"""How the results of a run are spelled: as lines, as progress, or whole (W-STREAM, W-FINISH, W-OPTIONS)."""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Sequence

from msgspec import Raw

from rkllm_twisted.errors import Cancelled, ReaderTooSlow, ResultTooLarge, RKLLMError
from rkllm_twisted.values import (
    NO_HIDDEN_STATES,
    NO_LOGITS,
    NO_PERF,
    CallState,
    Delivery,
    EncodedResult,
    Received,
    RKLLMPerfStat,
    RKLLMResult,
    RKLLMResultLastHiddenLayer,
    RKLLMResultLogits,
)
from rkllm_twisted.wire.connection import Call
from rkllm_twisted.wire.messages import NO_ID, encode, encodeInto, errorObject, notificationLine, resultLine

BURST = 2**16
"""The bytes of lines after which it is looked how much waits for the client."""
PART = 2**18
"""The bytes of a tensor that are spelled at a time."""
_NO_TENSORS = (
    b',"last_hidden_layer":{"hidden_states":null,"embd_size":0,"num_tokens":0}'
    b',"logits":{"logits":null,"vocab_size":0,"num_tokens":0}'
)
_TEXT_ONLY_END = tuple(
    b'%b,"perf":%b,"_callback_state":%d}' % (_NO_TENSORS, encode(NO_PERF), state) for state in range(len(CallState))
)


class Spelling:
    """Results as the JSON of W-STREAM.

    Args:
        delivery: How tensors are spelled, which of their rows, and the longest result with tensors in it.
    """

    def __init__(self, delivery: Delivery) -> None:
        self.rows = delivery.rows
        self.checkTensors = delivery.checkTensors
        self._delivery = delivery

    def result(self, result: RKLLMResult | EncodedResult, state: CallState) -> bytes:
        """A result.

        Raises:
            ResultTooLarge: Its tensors make it too long.
        """
        if isinstance(result, EncodedResult):
            return result.body
        if result.last_hidden_layer is not NO_HIDDEN_STATES or result.logits is not NO_LOGITS:
            return self.long(result, int(state))
        if result.batch_index is not None:
            return self.long(result, int(state))
        # Only text and token id change from token to token: the rest of the line is ready made.
        return b'{"text":%b,"token_id":%d%b' % (encode(result.text), result.token_id, _TEXT_ONLY_END[state])

    def long(self, result: RKLLMResult, state: int, **more: object) -> bytes:
        """A result with all its fields spelled out, and some added."""
        hidden, logits = result.last_hidden_layer, result.logits
        states, stateRows = self._tensor(hidden.hidden_states, hidden.num_tokens, hidden.embd_size)
        values, valueRows = self._tensor(logits.logits, logits.num_tokens, logits.vocab_size)
        body = encode(
            {
                "text": result.text,
                "token_id": result.token_id,
                "last_hidden_layer": {
                    "hidden_states": states,
                    "embd_size": hidden.embd_size,
                    "num_tokens": stateRows,
                },
                "logits": {"logits": values, "vocab_size": logits.vocab_size, "num_tokens": valueRows},
                "perf": result.perf,
                "_callback_state": state,
                **({} if result.batch_index is None else {"batch_index": result.batch_index}),
                **more,
            }
        )
        if states is not None or values is not None:
            self._delivery.checkReply(len(body))
        return body

    def _tensor(self, data: bytes | None, rows: int, width: int) -> tuple[object, int]:
        """A tensor as JSON, and how many rows of it are there."""
        if data is None:
            return None, rows
        if self.rows == "last" and rows > 1:
            data, rows = data[-4 * width :], 1
        self.checkTensors(len(data))
        if self._delivery.tensors == "json":
            return self._numbers(data), rows
        return Raw(b'{"dtype":"<f4","shape":[%d,%d],"data":"%b"}' % (rows, width, _base64(data))), rows

    def _numbers(self, data: bytes) -> Raw:
        """A tensor as a JSON array. In parts: as objects of Python all its numbers would take 8 times their bytes."""
        spelled = bytearray()
        for start in range(0, len(data), PART):
            place = max(0, len(spelled) - 1)  # of the bracket that ends what there is: it becomes that of this part
            encodeInto(array("f", data[start : start + PART]).tolist(), spelled, place)
            if start:
                spelled[place] = ord(",")
            self._delivery.checkReply(len(spelled))
        return Raw(spelled)


def _base64(data: bytes) -> bytes:
    if sys.byteorder == "big":
        swapped = array("f", data)
        swapped.byteswap()
        data = swapped.tobytes()
    return base64.b64encode(data)


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


class Joined:
    """Results joined to one.

    Args:
        rows: "last" keeps the tensors of the last result only.
    """

    def __init__(self, rows: str) -> None:
        self._keepsAll = rows == "all"
        self._texts: list[str] = []
        self._last = RKLLMResult(token_id=-1)
        self._hidden = Rows()
        self._logits = Rows()

    @property
    def bytes(self) -> int:
        """Of the tensors."""
        return len(self._hidden.data) + len(self._logits.data)

    def add(self, result: RKLLMResult) -> None:
        """One more result, behind those there are."""
        self._last = result
        if result.text:
            self._texts.append(result.text)
        hidden, logits = result.last_hidden_layer, result.logits
        self._hidden.add(hidden.hidden_states, hidden.num_tokens, hidden.embd_size, self._keepsAll)
        self._logits.add(logits.logits, logits.num_tokens, logits.vocab_size, self._keepsAll)

    def result(self, perf: RKLLMPerfStat) -> RKLLMResult:
        """All of them, with the figures of the run."""
        return RKLLMResult(
            text="".join(self._texts),
            token_id=self._last.token_id,
            last_hidden_layer=RKLLMResultLastHiddenLayer(*self._hidden.whole()),
            logits=RKLLMResultLogits(*self._logits.whole()),
            perf=perf,
        )


class Rows:
    """Rows of a tensor."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._count = 0
        self._width = 0

    def add(self, data: bytes | None, count: int, width: int, keepsAll: bool) -> None:
        """More rows, behind those there are or in their place."""
        if data is not None:
            if not keepsAll:
                self.data.clear()
                self._count = 0
            self.data += data
            self._count += count
            self._width = width

    def whole(self) -> tuple[bytes | None, int, int]:
        """The rows, their width and how many they are."""
        return bytes(self.data) or None, self._width, self._count

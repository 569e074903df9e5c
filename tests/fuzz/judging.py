"""Whether what a peer received is what the contract allows, line for line and then as a whole."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import Any

import msgspec
from msgspec import Raw

from tests.fuzz.reading import NO_ID, expectedOf

CODES = {-32700, -32600, -32601, -32602, *range(-32011, -31999), -32800}
"""The codes of the contract, except -32603: that is a defect, and what the fuzzer looks for."""
RESULT = {"text", "token_id", "last_hidden_layer", "logits", "perf", "_callback_state"}
RESULT_MORE = {"finish_reason", "history_lost", "error", "batch_index"}
ACKNOWLEDGEMENT = {"success", "message"}

_rawMembers = msgspec.json.Decoder(dict[str, Raw]).decode
_rawEntries = msgspec.json.Decoder(list[Raw]).decode


class Found(AssertionError):
    """The server broke a rule."""


class Judge:
    """Judges what one peer received. The constructor raises `Found` for a line that is wrong by itself.

    Args:
        sent: All that it sent, up to a line feed.
        received: All that it got.
    """

    def __init__(self, sent: bytes, received: bytes) -> None:
        self._expected = expectedOf(sent)
        self._lines: dict[bytes, list[bool | None]] = defaultdict(list)
        """For each id: whether each line is a last one, None where that cannot be told."""
        self._arrays = 0
        if received and not received.endswith(b"\n"):
            raise Found(f"W-LINE: the last line has no end: {shown(received[-200:])}")
        for line in received.split(b"\n")[:-1]:
            self._read(line, parsed(line))

    def judge(self, isComplete: bool, unasked: int) -> None:
        """Raise `Found` if an answer is missing, or one too many.

        Args:
            isComplete: Whether all answers had the time and a way to come.
            unasked: How many lines without an id may have come for other reasons than a request.
        """
        expected = self._expected
        for id in {*self._lines, *expected.due}:
            if None not in self._lines[id]:
                self._judge(id, isComplete, unasked if id == NO_ID else 0)
        lasts = Counter(isLast for lines in self._lines.values() for isLast in lines)
        if isComplete and lasts[True] + lasts[None] < expected.least:
            raise Found(f"W-LAST: {lasts[True]} last lines in all, expected {expected.least} or more")
        if lasts[True] > expected.most + unasked:
            raise Found(f"W-LAST, W-NOTIFY: {lasts[True]} last lines in all, expected {expected.most} at most")
        if (isComplete and self._arrays < expected.batches[0]) or self._arrays > expected.batches[1]:
            raise Found(f"W-BATCH: {self._arrays} arrays, expected {expected.batches}")

    def _judge(self, id: bytes, isComplete: bool, unasked: int) -> None:
        lines, expected = self._lines[id], self._expected
        count, most = lines.count(True), expected.possible[id] + unasked
        if isComplete and count < expected.due[id]:
            raise Found(f"W-LAST: {count} last lines with the id {shown(id)}, expected {expected.due[id]}")
        if (count > most or (lines and not lines[-1] and (isComplete or count == most))) and not expected.isUnclear(id):
            raise Found(f"W-LAST: {most} last lines expected with the id {shown(id)}, their order is {lines}")

    def _read(self, line: bytes, message: Any) -> None:
        if not isinstance(message, list):
            self._readMessage(line, message)
            return
        self._arrays += 1
        if not message:
            raise Found("W-BATCH: an empty array")
        for raw, response in zip(_rawEntries(line), message, strict=True):
            self._readMessage(bytes(raw), response)
            if "method" in response:
                raise Found(f"W-BATCH: {shown(bytes(raw))} is not a response")

    def _readMessage(self, line: bytes, message: Any) -> None:
        checkMessage(line, message)
        members = _rawMembers(line)
        if "method" in message:
            token = bytes(_rawMembers(members["params"])["token"])
            self._lines[token].append(False)
        elif "error" in message:
            self._lines[_answeredId(members, message["error"])].append(True)
        else:
            id = bytes(members["id"])
            self._lines[id].append(self._isLast(id, message["result"]))

    def _isLast(self, id: bytes, result: Any) -> bool | None:
        if isinstance(result, dict) and "_callback_state" in result:
            return result["_callback_state"] in (2, 3)
        if not isinstance(result, dict) or set(result) != ACKNOWLEDGEMENT:
            return True
        return None if self._expected.isMixed(id) else id not in self._expected.acknowledged


def _answeredId(members: dict[str, Raw], error: dict[str, Any]) -> bytes:
    """Which request an error answers: a second one with an id in flight is named in the data."""
    if error["code"] == -32600 and "id" in error.get("data", {}):
        return bytes(_rawMembers(_rawMembers(members["error"])["data"])["id"])
    return bytes(members["id"])


def parsed(line: bytes) -> Any:
    """A line as a document."""
    try:
        return json.loads(line.decode(), parse_constant=_refuse, parse_int=_number)
    except ValueError as error:
        raise Found(f"W-LINE: {error}: {shown(line)}") from None


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) < 20 else float(digits)


def checkMessage(line: bytes, message: Any) -> None:
    """A response, or a notification of progress."""
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        raise Found(f"no JSON-RPC 2.0: {shown(line)}")
    kind = set(message) - {"jsonrpc"}
    if kind == {"id", "error"}:
        checkError(line, message["error"])
    elif kind == {"id", "result"}:
        _checkResult(line, message["result"])
    elif kind == {"method", "params"} and message["method"] == "$/progress":
        if set(message["params"]) != {"token", "value"}:
            raise Found(f"W-OPTIONS: no progress: {shown(line)}")
        _checkResult(line, message["params"]["value"])
    else:
        raise Found(f"neither a response nor a notification of progress: {shown(line)}")


def checkError(line: bytes, error: Any) -> None:
    """An error object of W-CODES that is no defect."""
    isWhole = isinstance(error, dict) and {"code", "message"} <= set(error) <= {"code", "message", "data"}
    if not isWhole or not isinstance(error["message"], str) or error["code"] not in CODES:
        raise Found(f"W-ERRORS: no error that may come: {shown(line)}")
    data = error.get("data", {})
    if not isinstance(data, dict):
        raise Found(f"W-CODES: data is no object: {shown(line)}")
    if -32100 < error["code"] <= -32000 and not isinstance(data.get("retryable"), bool):
        raise Found(f"W-CODES: retryable is missing: {shown(line)}")


def _checkResult(line: bytes, result: Any) -> None:
    if isinstance(result, dict) and "_callback_state" in result:
        if not RESULT <= set(result) <= RESULT | RESULT_MORE or result["_callback_state"] not in (0, 1, 2, 3):
            raise Found(f"W-STREAM: no result of a stream: {shown(line)}")
        if "error" in result:
            checkError(line, result["error"])


def shown(data: bytes) -> str:
    """Bytes for a message, cut short."""
    return repr(data if len(data) <= 400 else data[:300] + b" ... " + data[-95:])

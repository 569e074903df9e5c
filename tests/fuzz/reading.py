"""What the contract makes of sent bytes: which answers must come, and which may.

It is read with Python's own JSON reader and with nothing of the server's, so that the two can disagree.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import msgspec
from msgspec import Raw

NO_ID = b"null"
BARE_BYTES = 64 * 1024
BATCH_LIMIT = 64
BLANK = b" \t\r"
WITH_ACKNOWLEDGEMENT = "rkllm.run_async"

_rawMembers = msgspec.json.Decoder(dict[str, Raw]).decode
_rawEntries = msgspec.json.Decoder(list[Raw]).decode
_surrogate = re.compile(r"\\u[dD][89a-fA-F]").search


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


# Numbers as floats: Python refuses whole ones of more than 4300 digits.
_decoder = json.JSONDecoder(parse_int=float, parse_constant=_refuse)
_decoderOfPairs = json.JSONDecoder(parse_int=float, object_pairs_hook=list)


class NotClear(Exception):
    """The contract leaves open what the answer to a line is; it has to have one, or need not."""

    def __init__(self, least: int, most: int) -> None:
        super().__init__(least, most)
        self.least = least
        self.most = most


class Expected:
    """The answers to everything that one peer sent.

    Attributes:
        due: How many last lines must have this id.
        possible: How many may.
        least, most: How many last lines there are in all.
        batches: The least and the most arrays.
        unclear: Lines whose ids may be answered with, or not.
        acknowledged: Ids whose request is acknowledged before the stream.
        plain: Ids whose request is not.
    """

    def __init__(self) -> None:
        self.due: Counter[bytes] = Counter()
        self.possible: Counter[bytes] = Counter()
        self.least = self.most = 0
        self.batches = [0, 0]
        self.unclear: list[bytes] = []
        self.acknowledged: set[bytes] = set()
        self.plain: set[bytes] = set()

    def isMixed(self, id: bytes) -> bool:
        """Whether an acknowledgement and a result cannot be told from each other under this id."""
        if id in self.acknowledged and id in self.plain:
            return True
        return any(id in line and WITH_ACKNOWLEDGEMENT.encode() in line for line in self.unclear)

    def isUnclear(self, id: bytes) -> bool:
        """Whether a line that is not clear may be answered with this id."""
        return bool(self.unclear) and (id == NO_ID or any(id in line for line in self.unclear))

    def _expect(self, *ids: bytes) -> None:
        """One answer, with one of these ids."""
        self.least += 1
        self.most += 1
        self.possible.update(ids)
        if len(ids) == 1:
            self.due.update(ids)

    def _leaveOpen(self, line: bytes, least: int, most: int) -> None:
        self.least += least
        self.most += most
        self.batches[1] += most
        self.unclear.append(line)


def expectedOf(sent: bytes) -> Expected:
    """The answers to a stream of bytes that ends with a line feed."""
    expected = Expected()
    for line in sent.split(b"\n"):
        if stripped := line.strip(BLANK):
            _readLine(stripped, expected)
    return expected


def _readLine(line: bytes, expected: Expected) -> None:
    try:
        documents = _documents(line.decode(), len(line) <= BARE_BYTES)
        for document in documents:
            _readMessage(document, Expected())  # whether each is clear, before any counts
        for document in documents:
            _readMessage(document, expected)
    except NotClear as limits:
        isAlone = len(documents) == 1
        expected._leaveOpen(line, limits.least if isAlone else 0, limits.most if isAlone else _parts(line))
    except RecursionError:
        expected._leaveOpen(line, 0, 1 + _parts(line))
    except ValueError:
        # What is no JSON has an answer; what looks like JSON in it may have one too, or not. Above the limit of W-BARE
        # it may be some notifications in a row.
        expected._leaveOpen(line, 1 if len(line) <= BARE_BYTES else 0, 1 + _parts(line))


def _documents(text: str, mayBeSeveral: bool) -> list[str]:
    """The documents of a line: one, or some objects and arrays in a row (W-BARE)."""
    try:
        _decoder.decode(text)
    except ValueError:
        if not mayBeSeveral:
            raise
        return _documentsInARow(text)
    return [text]


def _documentsInARow(text: str) -> list[str]:
    documents, place = [], 0
    while place < len(text):
        if text[place] not in "{[":
            raise ValueError("neither an object nor an array")
        _, end = _decoder.raw_decode(text, place)
        documents.append(text[place:end])
        while text[end : end + 1] in (" ", "\t", "\r"):
            end += 1
        place = end
    return documents


def _parts(line: bytes) -> int:
    """More than a line can have of documents and entries of batches."""
    return line.count(b"}") + line.count(b"]") + line.count(b",")


def _readMessage(text: str, expected: Expected) -> None:
    line = text.encode()
    message = _decoder.decode(text)
    if _surrogate(text) and _hasLoneSurrogate(_decoderOfPairs.decode(text)):
        entries = message if isinstance(message, list) else [message]
        asked = sum(isinstance(entry, dict) and "id" in entry for entry in entries)
        raise NotClear(min(asked, 1), max(1, len(entries)))
    if isinstance(message, list):
        _readBatch(line, message, expected)
    else:
        _readEntry(line, message, expected)


def _hasLoneSurrogate(message: Any) -> bool:
    """Whether one is in a message whose objects are lists of pairs, so that names that come twice are looked at too."""
    try:
        json.dumps(message, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _readBatch(line: bytes, entries: list[Any], expected: Expected) -> None:
    if not entries or len(entries) > BATCH_LIMIT:
        expected._expect(NO_ID)
        return
    before = expected.least
    for entry, raw in zip(entries, _rawEntries(line), strict=True):
        _readEntry(bytes(raw), entry, expected)
    if expected.least > before:
        expected.batches[0] += 1
        expected.batches[1] += 1


def _readEntry(line: bytes, message: Any, expected: Expected) -> None:
    if not isinstance(message, dict):
        expected._expect(NO_ID)
        return
    id = bytes(_rawMembers(line)["id"]) if "id" in message else None
    if id is not None and (isinstance(message["id"], bool | dict | list)):
        expected._expect(NO_ID)
    elif not _isRequest(message):
        expected._expect(*{id or NO_ID, NO_ID})
    elif id is not None:
        expected._expect(id)
        (expected.acknowledged if message["method"] == WITH_ACKNOWLEDGEMENT else expected.plain).add(id)


def _isRequest(message: dict[str, Any]) -> bool:
    return (
        message.get("jsonrpc") == "2.0"
        and isinstance(message.get("method"), str)
        and isinstance(message.get("params", []), dict | list)
    )

"""JSON-RPC 2.0 messages: a line into requests, an answer into a line (W-REQUEST, W-ID, W-BATCH, W-ERRORS).

Ids, params and results stay the bytes that they arrived as or were spelled as: an id goes back exactly as it came, and
nothing is decoded before somebody knows its type.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Raw, Struct

from rkllm_twisted.errors import InvalidRequest, ParseError, RKLLMError

_ID_BEGINS = frozenset(b'"-0123456789')
_PARAMS_BEGIN = frozenset(b"[{")
BATCH_LIMIT = 64
"""The most entries of a batch."""
NO_ID = b"null"
"""The id of an answer whose request had none that could be read."""


class Request(Struct, frozen=True):
    """A request or, with ``id`` None, a notification."""

    method: str
    params: bytes
    """The JSON of ``params``; empty if there was none."""
    id: bytes | None
    """The JSON of ``id``, as it came."""


class Refused(Exception):
    """A line that is no request. ``error`` says why, ``id`` is the id to answer with."""

    def __init__(self, error: RKLLMError, id: bytes = NO_ID) -> None:
        super().__init__(error)
        self.error = error
        self.id = id


class _Envelope(Struct):
    jsonrpc: Literal["2.0"]
    method: str
    params: Raw = Raw(b"")
    id: Raw = Raw(b"")


class _AnyEnvelope(Struct):
    """Of a request that is wrong in some way."""

    jsonrpc: Raw = Raw(b"")
    method: Raw = Raw(b"")
    params: Raw = Raw(b"")
    id: Raw = Raw(b"")


_decodeEnvelope = msgspec.json.Decoder(_Envelope).decode
_decodeAnyEnvelope = msgspec.json.Decoder(_AnyEnvelope).decode
_decodeEntries = msgspec.json.Decoder(list[Raw]).decode
_decodeAny = msgspec.json.Decoder().decode
encode = msgspec.json.Encoder().encode
"""A value into JSON."""
encodeInto = msgspec.json.Encoder().encode_into
"""A value into JSON that is written over what a bytearray has from a place on."""


def parse(line: bytes) -> Request | list[bytes]:
    """Read a line.

    Returns:
        The request, or the JSON of each entry of a batch.

    Raises:
        Refused: It is neither.
    """
    try:
        if not line.isascii():
            line.decode()
        if line[:1] == b"[":
            return _entries(line)
        return _request(line)
    except msgspec.ValidationError:
        raise Refused(InvalidRequest("a request is a JSON object")) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(ParseError(str(error))) from None
    except RecursionError:
        raise Refused(ParseError("nested too deeply")) from None


def parseEntry(entry: bytes) -> Request:
    """Read an entry of a batch; one batch inside another is none.

    Raises:
        Refused: It is no request.
    """
    request = parse(entry)
    if isinstance(request, list):
        raise Refused(InvalidRequest("a batch has no batches in it"))
    return request


def _entries(line: bytes) -> list[bytes]:
    entries = [bytes(entry) for entry in _decodeEntries(line)]
    if not entries:
        raise Refused(InvalidRequest("an empty batch"))
    if len(entries) > BATCH_LIMIT:
        raise Refused(InvalidRequest(f"a batch may have {BATCH_LIMIT} entries, this one has {len(entries)}"))
    return entries


def _request(line: bytes) -> Request:
    try:
        envelope = _decodeEnvelope(line)
    except msgspec.ValidationError:
        raise _refusal(_decodeAnyEnvelope(line)) from None
    id, params = bytes(envelope.id), bytes(envelope.params)
    if (id and id[0] not in _ID_BEGINS and id != NO_ID) or (params and params[0] not in _PARAMS_BEGIN):
        raise _refusal(_decodeAnyEnvelope(line))
    return Request(envelope.method, params, id or None)


def _refusal(envelope: _AnyEnvelope) -> Refused:
    """What is wrong with a request; its id is looked at first, for the answer goes to it."""
    id = bytes(envelope.id)
    if id and id[0] not in _ID_BEGINS and id != NO_ID:
        return Refused(InvalidRequest("$.id: expected a string, a number or null"))
    if not _isString(envelope.jsonrpc) or _decodeAny(envelope.jsonrpc) != "2.0":
        return Refused(InvalidRequest('$.jsonrpc: expected "2.0"'), id or NO_ID)
    if not _isString(envelope.method):
        return Refused(InvalidRequest("$.method: expected a string"), id or NO_ID)
    return Refused(InvalidRequest("$.params: expected an array or an object, or none"), id or NO_ID)


def _isString(json: Raw) -> bool:
    return bytes(json)[:1] == b'"'


def idKey(id: bytes) -> bytes | str:
    """What two ids have in common that are the same to JSON-RPC: strings may be escaped in different ways."""
    return str(_decodeAny(id)) if id[:1] == b'"' else id


def resultLine(id: bytes, result: bytes) -> bytes:
    """The line of a response.

    Args:
        id: The id of the request, as it came.
        result: The JSON of the result.
    """
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}\n' % (id, result)


def notificationLine(method: bytes, params: bytes) -> bytes:
    """The line of a notification.

    Args:
        method: Its method, which needs no escaping.
        params: The JSON of its params.
    """
    return b'{"jsonrpc":"2.0","method":"%b","params":%b}\n' % (method, params)


def errorLine(id: bytes, error: RKLLMError) -> bytes:
    """The line of an error response."""
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}\n' % (id, encode(errorObject(error)))


def errorObject(error: RKLLMError) -> dict[str, object]:
    """The ``error`` object of W-CODES."""
    shown: dict[str, object] = {"code": error.code, "message": error.message}
    if error.data or error.code > -32100:
        shown["data"] = {"retryable": error.retryable, **error.data}
    return shown

"""The client's end of a connection: requests out, and each line back to the request that it belongs to."""

from __future__ import annotations

from functools import partial
from itertools import count
from typing import cast

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from rkllm_twisted.client.exchange import ErrorObject, Exchange, errorOf
from rkllm_twisted.errors import RKLLMError
from rkllm_twisted.wire.framing import Framing, LineTooLong

MAX_LINE = 2**30
"""The longest line accepted from the server, in bytes: four times the tensor replies that it sends by default."""


class ConnectionLost(RKLLMError):
    """connection to the server lost

    Not an error of the wire: the request may or may not have been carried out. Where Twisted gave a reason, that is the
    ``__cause__``.
    """


class _Message(Struct):
    """Anything that a server may send."""

    id: int | float | str | None = None
    method: str | None = None
    params: Raw = Raw(b"null")
    result: Raw = Raw(b"null")
    error: ErrorObject | None = None


class _Progress(Struct):
    token: int | float | str | None
    value: Raw


class _Request(Struct, kw_only=True):
    jsonrpc: str = "2.0"
    id: int | UnsetType = UNSET
    method: str
    params: object = UNSET


_decodeMessage = msgspec.json.Decoder(_Message).decode
_decodeProgress = msgspec.json.Decoder(_Progress).decode
_encode = msgspec.json.Encoder().encode


class ClientConnection(Protocol):
    """Requests out, results in. In the reactor's thread only.

    Args:
        maxLine: The longest line accepted from the server, in bytes.
    """

    def __init__(self, maxLine: int = MAX_LINE) -> None:
        self._framing = Framing(maxLine)
        self._ids = count(1)
        self._exchanges: dict[int | float | str | None, Exchange] = {}
        self._lost: RKLLMError | None = None
        self._isDown = False
        self._waitingForEnd: list[Deferred[None]] = []

    def request(self, method: str, params: object = None) -> Exchange:
        """Send a request. On a lost connection the exchange has failed already.

        Args:
            method: The wire's name of the method.
            params: A list or a mapping, of anything that msgspec turns into JSON; None for no parameters.

        Raises:
            TypeError, ValueError: ``params`` cannot be written as JSON (ValueError: a lone surrogate in a string).
        """
        id = next(self._ids)
        line = _encode(_Request(id=id, method=method, params=UNSET if params is None else params)) + b"\n"
        exchange = Exchange(
            method,
            cancel=partial(self.notify, "$/cancelRequest", {"id": id}),
            ended=partial(self._exchanges.pop, id, None),
        )
        if self._lost is not None:
            exchange.failed(self._lost)
        else:
            self._exchanges[id] = exchange
            self._write(line)
        return exchange

    def notify(self, method: str, params: object) -> None:
        """Send a notification. Does nothing on a lost connection."""
        if self._lost is None:
            self._write(_encode(_Request(method=method, params=params)) + b"\n")

    def disconnect(self) -> Deferred[None]:
        """Close the connection once what was written has gone out.

        Every open request fails with `ConnectionLost` at once.

        Returns:
            Fires with None when the connection is closed. Cancelling it drops what could not be written and closes.
        """
        ended: Deferred[None] = Deferred(self._abandon)
        if self._isDown:
            ended.callback(None)
        else:
            self._waitingForEnd.append(ended)
            self._giveUp(ConnectionLost("closed by this client"))
        return ended

    def dataReceived(self, data: bytes) -> None:
        """Bytes from the server."""
        try:
            for line in self._framing.receive(data):
                self._lineReceived(line)
        except LineTooLong:
            self._giveUp(ConnectionLost("the server sent a line that is too long to be an answer"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone: nobody waits any longer."""
        detail = "the server closed it" if isinstance(reason.value, ConnectionDone) else reason.getErrorMessage()
        error = ConnectionLost(detail)
        error.__cause__ = reason.value
        self._isDown = True
        self._fail(error)
        waiting, self._waitingForEnd = self._waitingForEnd, []
        for ended in waiting:
            ended.callback(None)

    def _lineReceived(self, line: bytes) -> None:
        try:
            self._messageReceived(_decodeMessage(line))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._giveUp(ConnectionLost("the server sent a line that is no message of JSON-RPC 2.0"))

    def _messageReceived(self, message: _Message) -> None:
        if message.method is not None:
            self._notificationReceived(message)
        elif message.error is not None and message.id is None:
            # The server could not tell whose request was wrong, or refused the connection: everybody's is.
            self._giveUp(errorOf(message.error))
        elif (exchange := self._exchanges.get(message.id)) is None:
            pass  # nobody wants it any more
        elif message.error is not None:
            exchange.failed(errorOf(message.error))
        else:
            exchange.resultReceived(bytes(message.result))

    def _notificationReceived(self, message: _Message) -> None:
        if message.method != "$/progress":
            return
        progress = _decodeProgress(message.params)
        if (exchange := self._exchanges.get(progress.token)) is not None:
            exchange.progressReceived(bytes(progress.value))

    def _giveUp(self, error: RKLLMError) -> None:
        self._fail(error)
        if self.transport is not None:
            self.transport.loseConnection()

    def _abandon(self, ended: Deferred[None]) -> None:
        self._waitingForEnd.remove(ended)
        cast(ITCPTransport, self.transport).abortConnection()  # those of Unix sockets have it too

    def _fail(self, error: RKLLMError) -> None:
        """No request goes out from here on; those that are open fail. The first reason is the one that counts."""
        if self._lost is None:
            self._lost = error
        for exchange in list(self._exchanges.values()):
            exchange.failed(self._lost)

    def _write(self, data: bytes) -> None:
        assert self.transport is not None, "a request before the connection was made"
        self.transport.write(data)

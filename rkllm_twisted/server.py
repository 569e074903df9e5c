"""The server side of the socket: lines between a transport and the methods (W-SOCKET to W-CLIENTS)."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IReactorFDSet,
    ISystemHandle,
)
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from rkllm_twisted.access import Access, groupsOf
from rkllm_twisted.errors import Busy, InvalidRequest, NotPermitted, RKLLMError
from rkllm_twisted.methods.table import MethodTable
from rkllm_twisted.sockets import HangupWatch, Outbox, peerOf
from rkllm_twisted.wire.connection import Connection, Peer
from rkllm_twisted.wire.framing import Framing, LineTooLong
from rkllm_twisted.wire.messages import NO_ID, errorLine

MAX_CLIENTS = 100
"""Connections at a time, unless another limit is given (W-CLIENTS)."""
MAX_LINE = 16 * 2**20
"""The longest line of a client in bytes, unless another limit is given (W-LIMIT)."""
MAX_BACKLOG = 8 * 2**20
"""The bytes that may wait for a peer when a further result comes, unless another limit is given (W-SLOW)."""
LINE_LIMIT = 60.0
"""Seconds within which a line that has begun must end, unless another limit is given."""
EVERYTHING = Access()
LINGER = 5.0
"""Seconds that a refused peer has to read its error and close (W-LIMIT)."""


@implementer(IHalfCloseableProtocol)
class ServerProtocol(LineReceiver):
    """One connection.

    Args:
        factory: What all connections share.
        access: What is allowed at the socket that it came to.
    """

    delimiter = b"\n"
    factory: ServerFactory
    transport: Any

    def __init__(self, factory: ServerFactory, access: Access) -> None:
        self.factory = factory
        self._access = access
        self.MAX_LENGTH = factory.maxLine
        self._framing = Framing(factory.maxLine)
        self._unfinished: IDelayedCall | None = None
        """Refuses the peer if the line that it has begun does not end in time."""
        self._lingering: IDelayedCall | None = None
        """Closes the connection of a refused peer that does not close it."""
        self._hangup: HangupWatch | None = None

    def connectionMade(self) -> None:
        """Greet nobody; only a connection that is refused hears something unasked."""
        self.factory.opened(self)
        self._outbox = outbox = Outbox(self.transport, self.factory.maxBacklog)
        peer = peerOf(self.transport)
        self._connection = Connection(outbox.write, self.close, peer, outbox.isCongested, self._access.permits)
        if peer is not None:
            # In the factory's name: who looks at old log events later does not keep the connection alive.
            self.factory.log.debug("connection from pid {peer.pid}, uid {peer.uid}, gid {peer.gid}", peer=peer)
        if (refusal := self._refusalOf(peer)) is not None:
            self._refuse(refusal)

    def _refusalOf(self, peer: Peer | None) -> RKLLMError | None:
        """Why a peer is not served; None if it is, and has its place."""
        access = self._access
        if not access.admits(peer, groupsOf(self.transport) if access.gids is not None else frozenset()):
            who = "an unknown peer" if peer is None else f"pid {peer.pid}, uid {peer.uid}, gid {peer.gid}"
            self.factory.log.warn("refused: {who}", who=who)
            return NotPermitted("this user may not use this socket")
        if not self.factory.admit(self):
            return Busy(f"{self.factory.maxClients} clients are connected, no more may")
        return None

    def dataReceived(self, data: bytes) -> None:
        """Cut the data into lines. LineReceiver's own buffer would search an unfinished line anew with every piece."""
        if self._lingering is not None:
            return
        hasEnded = False
        if data.count(b"\n") > 1:  # one answer alone is not held: 3 % of a call
            self._outbox.hold()
        try:
            for line in self._framing.receive(data):
                hasEnded = True
                self.lineReceived(line)
        except LineTooLong:
            limit = self.factory.maxLine
            self._refuse(InvalidRequest(f"a line may have {limit} bytes, this one is longer"))
        finally:
            self._outbox.release()
        if self._framing.isUnfinished or self._unfinished is not None:
            self._limitLine(hasEnded)

    def _limitLine(self, hasEnded: bool) -> None:
        """A line that has begun must end in time: whoever only ever begins one would hold its place for nothing."""
        if self._unfinished is not None and (hasEnded or not self._framing.isUnfinished):
            _cancelIfActive(self._unfinished)
            self._unfinished = None
        if self._framing.isUnfinished and self._unfinished is None and self._lingering is None:
            self._unfinished = self.factory.reactor.callLater(self.factory.lineLimit, self._lineExpired)

    def _lineExpired(self) -> None:
        self._unfinished = None
        if self._lingering is None:
            limit = self.factory.lineLimit
            self._refuse(InvalidRequest(f"a line must end within {limit:g} s, this one has not"))

    def lineReceived(self, line: bytes) -> None:
        """Carry a line out. Returns nothing: a Deferred would stop the lines behind it."""
        for call in self._connection.receive(line):
            self.factory.table.dispatch(call)

    def readConnectionLost(self) -> None:
        """The peer sends nothing more; it may still read (W-HALFCLOSE), or be gone (W-GONE)."""
        if self._lingering is not None:
            self.transport.abortConnection()
            return
        self.dataReceived(b"\n")  # ends a last line that has no end of its own
        if ISystemHandle.providedBy(self.transport) and IReactorFDSet.providedBy(self.factory.reactor):
            try:
                self._hangup = HangupWatch(self.transport, self.factory.reactor)
            except OSError as error:  # no descriptor is free: that it has gone is seen when something is written to it
                self.factory.log.warn("a client's end cannot be watched: {reason}", reason=error.strerror)
        self._connection.finishReading()

    def writeConnectionLost(self) -> None:
        """Nothing more can be written: reading goes on until the peer closes."""
        if self._lingering is not None:
            self.factory.linger(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Nobody wants the answers any more."""
        if self._hangup is not None:
            self._hangup.stop()
        for delayed in (self._lingering, self._unfinished):
            if delayed is not None:
                _cancelIfActive(delayed)
        self.factory.dismiss(self)
        self._connection.lost()

    def close(self) -> None:
        """Close the connection once what was written has gone out."""
        self._outbox.whenEmpty(self.transport.loseConnection)

    def _refuse(self, error: RKLLMError) -> None:
        """Say why, then end the writing side and drop what comes until the peer has closed.

        Closing at once would reset the connection while the peer still sends, and take the error away from it.
        """
        self._connection.write(errorLine(NO_ID, error))
        self._connection.end()
        self._outbox.whenEmpty(self.transport.loseWriteConnection)
        self._lingering = self.factory.reactor.callLater(LINGER, self.transport.abortConnection)


class ServerFactory(Factory):
    """What the connections share.

    Args:
        table: The methods.
        reactor: Clock, and watcher of descriptors.
        maxClients: The most connections at a time (W-CLIENTS).
        maxLine: The longest line, in bytes (W-LIMIT).
        maxBacklog: The bytes that may wait for a peer when a further result comes (W-SLOW).
        lineLimit: Seconds within which a line that has begun must end.
    """

    noisy = False
    log = Logger()

    def __init__(
        self,
        table: MethodTable,
        reactor: Any,
        maxClients: int = MAX_CLIENTS,
        maxLine: int = MAX_LINE,
        maxBacklog: int = MAX_BACKLOG,
        lineLimit: float = LINE_LIMIT,
    ) -> None:
        self.table = table
        self.reactor = reactor
        self.maxClients = maxClients
        self.maxLine = maxLine
        self.maxBacklog = maxBacklog
        self.lineLimit = lineLimit
        self._open: set[ServerProtocol] = set()
        self._connected: set[ServerProtocol] = set()
        self._lingering: dict[ServerProtocol, None] = {}
        self._allClosed: Deferred[None] | None = None

    def buildProtocol(self, addr: IAddress | None) -> ServerProtocol:  # type: ignore[override]  # Twisted says Factory twice
        """A protocol for a new connection that may do everything."""
        return ServerProtocol(self, EVERYTHING)

    def behind(self, access: Access) -> Factory:
        """A factory for the connections of a socket at which only so much is allowed."""
        return _Door(self, access)

    def opened(self, protocol: ServerProtocol) -> None:
        """There is one more connection, which may be refused yet."""
        self._open.add(protocol)

    def admit(self, protocol: ServerProtocol) -> bool:
        """Whether there is room for one more connection."""
        if len(self._connected) >= self.maxClients:
            return False
        self._connected.add(protocol)
        return True

    def linger(self, protocol: ServerProtocol) -> None:
        """The connection is refused, has been told so, and takes nobody's place any more.

        As many may linger as may be served: whoever comes in numbers would take every descriptor otherwise. Of more,
        the first has had the longest time to read its error.
        """
        self._connected.discard(protocol)
        self._lingering[protocol] = None
        if len(self._lingering) > self.maxClients:
            first = next(iter(self._lingering))
            del self._lingering[first]
            first.transport.abortConnection()

    def dismiss(self, protocol: ServerProtocol) -> None:
        """The connection is gone."""
        self._open.discard(protocol)
        self._connected.discard(protocol)
        self._lingering.pop(protocol, None)
        if not self._open and self._allClosed is not None:
            allClosed, self._allClosed = self._allClosed, None
            allClosed.callback(None)

    def closeAll(self) -> Deferred[None]:
        """Close every connection once what was written to it has gone out; a peer that does not read has `LINGER`.

        Fires when they are closed.
        """
        if not self._open:
            return succeed(None)
        allClosed = self._allClosed = Deferred()
        for protocol in list(self._open):
            protocol.close()
        impatience = self.reactor.callLater(LINGER, self._abortAll)
        return allClosed.addCallback(lambda _: _cancelIfActive(impatience))

    def _abortAll(self) -> None:
        for protocol in list(self._open):
            protocol.transport.abortConnection()


class _Door(Factory):
    """Makes the protocols of one socket."""

    noisy = False

    def __init__(self, factory: ServerFactory, access: Access) -> None:
        self._factory = factory
        self._access = access

    def buildProtocol(self, addr: IAddress | None) -> ServerProtocol:  # type: ignore[override]  # Twisted says Factory twice
        return ServerProtocol(self._factory, self._access)


def _cancelIfActive(delayed: IDelayedCall) -> None:
    if delayed.active():
        delayed.cancel()

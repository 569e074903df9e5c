"""Between the kernel and a connection: who the peer is, whether it is gone, and how much it has not read yet."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.interfaces import IPushProducer, IReactorFDSet, IReadDescriptor, ISystemHandle
from twisted.python.failure import Failure
from zope.interface import implementer

from rkllm_twisted.wire.connection import Peer

PIECE = 64 * 1024
"""The most bytes that a transport is given at a time; Twisted's own buffers are as large."""


class BytesTransport(unix.Server):
    """The transport of a connection at a Unix socket that takes bytes only.

    Twisted's own asks with every read for descriptors that the peer may pass on, which is an eighth of a call. Without
    being asked, the kernel closes them (unix(7)).
    """

    doRead: Any = tcp.Connection.doRead


def peerOf(transport: Any) -> Peer | None:
    """Who is at the other end of a Unix socket; None for any other transport."""
    handle: Any = transport.getHandle() if ISystemHandle.providedBy(transport) else None
    if handle is None or handle.family != socket.AF_UNIX:
        return None
    credentials = handle.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return Peer(*struct.unpack("3i", credentials))


@implementer(IReadDescriptor)
class HangupWatch:
    """Closes a half-closed connection when its peer is gone altogether.

    Twisted stops polling a descriptor whose peer has finished writing, so nothing would tell of the end. An epoll of
    its own that asks for no event still reports EPOLLHUP, and is itself a descriptor that the reactor can read.
    """

    def __init__(self, transport: Any, reactor: IReactorFDSet) -> None:
        self._transport = transport
        self._reactor = reactor
        self._epoll = select.epoll()
        self._epoll.register(transport.fileno(), 0)
        reactor.addReader(self)

    def fileno(self) -> int:
        """Of the epoll."""
        return self._epoll.fileno()

    def logPrefix(self) -> str:
        """For the log."""
        return type(self).__name__

    def doRead(self) -> None:
        """The peer has closed its side for good."""
        self.stop()
        self._transport.abortConnection()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor gives up on the descriptor, which happens when it stops."""
        self.stop()

    def stop(self) -> None:
        """Watch no longer."""
        if not self._epoll.closed:
            self._reactor.removeReader(self)
            self._epoll.close()


@implementer(IPushProducer)
class Outbox:
    """What waits to be written to a peer.

    The transport gets no more than it can pass on, so that what waits is known to the byte. A peer that lets more wait
    than the limit is not read from until it has read: it could ask for more and more otherwise.

    What can be sent to a Unix socket at once is: Twisted would keep it until the next turn of the reactor, and ask the
    kernel three times more for it. That is a quarter of a call's time.

    Args:
        transport: Where it goes.
        limit: The bytes that may wait.
    """

    __slots__ = (
        "_emptied",
        "_isHeld",
        "_isHeldUp",
        "_isPaused",
        "_length",
        "_limit",
        "_send",
        "_transport",
        "_waiting",
    )

    def __init__(self, transport: Any, limit: int) -> None:
        self._transport = transport
        self._limit = limit
        self._waiting: list[bytes | memoryview] = []  # a deque takes 0.7 kB, and nearly all of them are empty
        self._length = 0
        self._isHeld = False
        self._isPaused = False
        self._isHeldUp = False
        self._emptied: Callable[[], object] | None = None
        self._send: Callable[[bytes], int] | None = None
        if isinstance(transport, unix.Server):
            self._send = transport.getHandle().send
        # One that is not streaming hears whenever the transport keeps nothing any more, so that nothing overtakes it.
        transport.registerProducer(self, self._send is None)

    def isCongested(self) -> bool:
        """Whether more waits than may."""
        return self._length > self._limit

    def write(self, data: bytes) -> None:
        """Write, now or when the peer has read what came before."""
        if self._isHeld or self._isPaused or len(data) > PIECE:
            self._keep(data)
        else:
            self._pass(data)

    def hold(self) -> None:
        """Keep what is written until `release`, so that it goes out in one."""
        self._isHeld = True

    def release(self) -> None:
        """Write what has been held."""
        self._isHeld = False
        if self._waiting and not self._isPaused:
            self._pass(self._taken())
        self._flush()

    def whenEmpty(self, emptied: Callable[[], object]) -> None:
        """Write nothing more, and call this when all that waits has been given to the transport."""
        self._emptied = emptied
        self._flush()

    def pauseProducing(self) -> None:
        """The transport has enough."""
        self._isPaused = True

    def resumeProducing(self) -> None:
        """The transport has passed on what it had."""
        self._isPaused = False
        self._flush()

    def stopProducing(self) -> None:
        """Nobody will read it."""
        self._waiting.clear()
        self._length = 0
        self._isPaused = True

    def _flush(self) -> None:
        while self._waiting and not self._isPaused and not self._isHeld:
            self._hand(self._taken())
        if self._isHeldUp and not self.isCongested():
            self._isHeldUp = False
            self._transport.resumeProducing()
        if self._emptied is not None and not self._waiting:
            emptied, self._emptied = self._emptied, None
            self._send = None  # nobody tells any more when the transport keeps nothing
            self._transport.unregisterProducer()
            emptied()

    def _pass(self, data: bytes) -> None:
        if self._send is not None:
            try:
                sent = self._send(data)
            except OSError:
                sent = 0  # whatever it is, the transport will find it too
            if sent == len(data):
                return
            data = data[sent:]
        self._hand(data)

    def _hand(self, data: bytes) -> None:
        """Let the transport write it in its own time."""
        self._isPaused = self._send is not None
        self._transport.write(data)

    def _keep(self, data: bytes) -> None:
        if len(data) <= PIECE:
            self._waiting.append(data)
        else:
            view = memoryview(data)
            self._waiting.extend(view[start : start + PIECE] for start in range(0, len(data), PIECE))
        self._length += len(data)
        if not self._isPaused and not self._isHeld:
            self._flush()
        elif self.isCongested() and not self._isHeldUp:
            self._isHeldUp = True
            self._transport.pauseProducing()

    def _taken(self) -> bytes:
        """The first that waits, and what fits into the same piece with it."""
        count, size = 1, len(self._waiting[0])
        while count < len(self._waiting) and size + len(self._waiting[count]) <= PIECE:
            size += len(self._waiting[count])
            count += 1
        taken = b"".join(self._waiting[:count])
        del self._waiting[:count]
        self._length -= size
        return taken

"""A peer of the server without a socket, a clock that stands still, and so no waiting."""

from __future__ import annotations

import socket
import struct
from typing import Any

import msgspec
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ISystemHandle
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from rkllm_twisted.access import Access
from rkllm_twisted.interfaces import IModelBackend
from rkllm_twisted.methods.roots import Roots
from rkllm_twisted.methods.runtime import RuntimeMethods
from rkllm_twisted.methods.server import makeTable
from rkllm_twisted.scheduling.scheduler import MAX_QUEUE, Scheduler
from rkllm_twisted.server import EVERYTHING, ServerFactory, ServerProtocol
from rkllm_twisted.values import MAX_REPLY


@implementer(ISystemHandle)
class PeerTransport(StringTransport):
    """A transport that remembers how it was closed and knows who its peer is.

    Args:
        uid: The user of the peer.
    """

    family = socket.AF_UNIX

    def __init__(self, uid: int) -> None:
        super().__init__()
        self.writeClosed = False
        self.aborting = False
        self._uid = uid

    def loseWriteConnection(self) -> None:
        """Remember."""
        self.writeClosed = True

    def abortConnection(self) -> None:
        """Remember."""
        self.aborting = True

    def getHandle(self) -> PeerTransport:
        """Stands for its socket too."""
        return self

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        """SO_PEERCRED."""
        return struct.pack("3i", 1, self._uid, 1)


class Server:
    """The server's side, for as many peers as a test wants.

    Args:
        backend: What runs the models.
        clock: Moves time; the backend's, where that has one.
        options: Of `ServerFactory`, and ``maxQueue``, ``queueTimeout``, ``maxReply`` and ``roots``.
    """

    def __init__(
        self,
        backend: IModelBackend,
        clock: Clock,
        maxQueue: int = MAX_QUEUE,
        queueTimeout: float | None = None,
        maxReply: int = MAX_REPLY,
        roots: Roots | None = None,
        **options: Any,
    ) -> None:
        self.clock = clock
        scheduler = Scheduler(clock, maxQueue, queueTimeout)
        self.runtime = RuntimeMethods(backend, scheduler, maxReply, roots)
        table = makeTable(self.runtime, scheduler)
        self.factory = ServerFactory(table, clock, **options)

    def connect(self, uid: int = 0, access: Access = EVERYTHING) -> Peer:
        """One more peer, at a socket at which only so much is allowed."""
        return Peer(self, uid, access)


class Peer:
    """One connection, seen from the peer's side."""

    def __init__(self, server: Server, uid: int, access: Access) -> None:
        self._server = server
        self.transport = PeerTransport(uid)
        self.protocol = ServerProtocol(server.factory, access)
        self.protocol.makeConnection(self.transport)

    def send(self, data: bytes | dict[str, Any]) -> None:
        """Send bytes as they are, or a message as a line."""
        self.protocol.dataReceived(data if isinstance(data, bytes) else msgspec.json.encode(data) + b"\n")

    def received(self, seconds: float = 0.0) -> list[Any]:
        """Let time pass, do what is due by then, each at its time, and return what came since the last time."""
        clock = self._server.clock
        end = clock.seconds() + seconds
        while due := [call.getTime() for call in clock.getDelayedCalls() if call.getTime() <= end]:
            clock.advance(max(0.0, min(due) - clock.seconds()))
        clock.advance(end - clock.seconds())
        data = self.transport.value()
        self.transport.clear()
        return [msgspec.json.decode(line) for line in data.splitlines()]

    def ask(self, method: str, *params: Any, id: object = 1) -> list[Any]:
        """Send a request and return what has come by the time that nothing is left to do."""
        self.send({"jsonrpc": "2.0", "id": id, "method": method, "params": list(params)})
        return self.received()

    def finishWriting(self) -> None:
        """Close this side's writing half."""
        self.protocol.readConnectionLost()

    def disconnect(self) -> None:
        """Go away."""
        self.protocol.connectionLost(Failure(ConnectionDone()))

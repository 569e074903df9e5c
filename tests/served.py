"""A server on a real Unix socket, and clients of it, in the reactor of the tests."""

import msgspec
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint, UNIXServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock

from rkllm_twisted.backends.scripted import ScriptedBackend
from rkllm_twisted.testing.peers import Server


class Client(Protocol):
    """Keeps what comes, and can wait for it."""

    def __init__(self):
        self.data = b""
        self.closed = Deferred()
        self._waiting = []

    def dataReceived(self, data):
        self.data += data
        for waiting in list(self._waiting):
            lines, done = waiting
            if self.data.count(b"\n") >= lines:
                self._waiting.remove(waiting)
                done.callback(None)

    def connectionLost(self, reason):
        self.closed.callback(None)

    async def lines(self, count):
        """The first lines, when they have come."""
        if self.data.count(b"\n") < count:
            done = Deferred()
            self._waiting.append((count, done))
            await done
        return [msgspec.json.decode(line) for line in self.data.splitlines()[:count]]

    def ask(self, method, *params, id=1):
        message = {"jsonrpc": "2.0", "id": id, "method": method, "params": list(params)}
        self.transport.write(msgspec.json.encode(message) + b"\n")


class Served:
    """A server on a Unix socket."""

    def __init__(self, path, **options):
        self.clock = Clock()
        self.path = path
        self.server = Server(ScriptedBackend(self.clock, interval=1), self.clock, **options)
        self.server.factory.reactor = reactor

    async def start(self):
        self.port = await UNIXServerEndpoint(reactor, self.path).listen(self.server.factory)
        return self

    async def connect(self):
        return await UNIXClientEndpoint(reactor, self.path).connect(Factory.forProtocol(Client))

    async def stop(self):
        await self.port.stopListening()
        await self.server.factory.closeAll()


async def untilGone(server, left):
    """Until the server has noticed."""
    while len(server.server.factory._connected) > left:
        turn = Deferred()
        reactor.callLater(0, turn.callback, None)
        await turn

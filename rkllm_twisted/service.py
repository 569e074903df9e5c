"""Where the parts meet: a service that listens and serves a backend."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from twisted.application.service import MultiService, Service
from twisted.internet import unix
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.logger import Logger
from twisted.python.failure import Failure

from rkllm_twisted.access import Access
from rkllm_twisted.interfaces import IModelBackend, IRuntime
from rkllm_twisted.listening import HeldPath, serverEndpoint, unixPath
from rkllm_twisted.methods.roots import Roots
from rkllm_twisted.methods.runtime import RuntimeMethods
from rkllm_twisted.methods.server import makeTable
from rkllm_twisted.scheduling.scheduler import MAX_QUEUE, Scheduler
from rkllm_twisted.server import EVERYTHING, LINE_LIMIT, MAX_BACKLOG, MAX_CLIENTS, MAX_LINE, ServerFactory
from rkllm_twisted.sockets import BytesTransport
from rkllm_twisted.systemd import InheritedPort, inheritedSocket
from rkllm_twisted.values import MAX_REPLY

DEFAULT_PATH = "/tmp/rkllm.sock"
SYSTEMD = "systemd:"


class RKLLMService(MultiService):
    """Serves one backend on one endpoint.

    Args:
        backend: What runs the models: anything that adapts to `IModelBackend`.
        listen: A Twisted server endpoint string, such as ``unix:/run/rkllm.sock``; or several, each with what is
            allowed there.
        reactor: The reactor.
        model: A ``model_path`` to load at start; None loads nothing.
        maxClients: The most connections at a time (W-CLIENTS).
        maxLine: The longest line of a client, in bytes (W-LIMIT).
        maxQueue: The most requests that wait for the model (W-TURNS).
        queueTimeout: Seconds after which a request that still waits is refused (-32002); None is no limit.
        maxReply: The longest result with tensors in it, in bytes (-32009).
        maxBacklog: The bytes that may wait for a client that does not read when a further result comes (W-SLOW).
        lineLimit: Seconds within which a line that has begun must end.
        drain: Seconds that the generations in progress may go on when the service stops.
        modelRoots: The directories below which clients may name files; none allows all.
    """

    log = Logger()

    def __init__(
        self,
        backend: IRuntime | IModelBackend,
        listen: str | Sequence[tuple[str, Access]],
        reactor: Any,
        model: str | None = None,
        maxClients: int = MAX_CLIENTS,
        maxLine: int = MAX_LINE,
        maxQueue: int = MAX_QUEUE,
        queueTimeout: float | None = None,
        maxReply: int = MAX_REPLY,
        maxBacklog: int = MAX_BACKLOG,
        lineLimit: float = LINE_LIMIT,
        drain: float = 0.0,
        modelRoots: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self._model = model
        self._drain = drain
        self._reactor = reactor
        scheduler = Scheduler(reactor, maxQueue, queueTimeout)
        self._runtime = RuntimeMethods(IModelBackend(backend), scheduler, maxReply, Roots(modelRoots))
        table = makeTable(self._runtime, scheduler)
        self._factory = ServerFactory(table, reactor, maxClients, maxLine, maxBacklog, lineLimit)
        for address, access in [(listen, EVERYTHING)] if isinstance(listen, str) else listen:
            ListeningService(address, self._factory.behind(access), reactor).setServiceParent(self)

    def startService(self) -> None:
        """Listen, then load the model. Raises what keeps it from listening; it listens nowhere then."""
        try:
            super().startService()
        except BaseException:
            super().stopService()
            raise
        if self._model is not None:
            self._runtime.preload(self._model).addCallbacks(self._loaded, self._notLoaded)

    def _loaded(self, answer: object) -> None:
        self.log.info("Model {model} loaded", model=self._model)

    def _notLoaded(self, failure: Failure) -> None:
        self.log.critical(
            "Model {model} is not loaded, clients must call rkllm.init: {reason}",
            model=self._model,
            reason=failure.getErrorMessage(),
        )

    def stopService(self) -> Deferred[None]:
        """Listen no more, give every request its last line, free the model, close the connections."""
        stopped: Deferred[Any] = super().stopService()
        stopped.addCallback(lambda _: self._runtime.shutDown(self._drain))
        return stopped.addCallback(lambda _: self._factory.closeAll())


class ListeningService(Service):
    """Listens on an endpoint, and fails to start where it cannot.

    Twisted's StreamServerEndpointService logs a failed listen and goes on without.

    Args:
        listen: A server endpoint string, or ``systemd:`` and the name of a socket that systemd passes on.
        factory: Makes the protocols.
        reactor: The reactor.
    """

    log = Logger()

    def __init__(self, listen: str, factory: IProtocolFactory, reactor: Any) -> None:
        self._listen = listen
        self._factory = factory
        self._reactor = reactor
        self._path = unixPath(listen)
        self._held: HeldPath | None = None
        self._port: IListeningPort | None = None
        self._inherited: InheritedPort | None = None

    def startService(self) -> None:
        """Listen.

        Raises:
            AddressUnusable: The path of a Unix socket is in use or cannot be.
            NoSuchSocket: systemd has passed on no such socket.
            CannotListenError: Whatever else keeps it from listening.
        """
        super().startService()
        if self._listen.startswith(SYSTEMD):
            self._inherited = InheritedPort(
                inheritedSocket(self._listen.removeprefix(SYSTEMD)), self._factory, self._reactor
            )
            self._inherited.startListening()
            self._listens(None)
            return
        if self._path is not None:
            self._held = HeldPath(self._path)
        failures: list[Failure] = []
        serverEndpoint(self._reactor, self._listen).listen(self._factory).addCallbacks(self._listens, failures.append)
        if failures:
            failures[0].raiseException()

    def _listens(self, port: IListeningPort | None) -> None:
        self._port = port
        if isinstance(port, unix.Port):
            port.transport = BytesTransport
        self.log.info("Server started successfully: listening on {address}", address=self._listen)

    def stopService(self) -> Deferred[None]:
        """Listen no more; the file of a Unix socket is removed."""
        super().stopService()
        inherited, self._inherited = self._inherited, None
        if inherited is not None:
            inherited.stopListening()
        port, self._port = self._port, None
        if port is not None and self._path is not None and not os.path.lexists(self._path):
            # Somebody has removed it, and Twisted would fail over removing it.
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL, 0o600))
        stopped = None if port is None else port.stopListening()
        return (stopped or succeed(None)).addBoth(self._stopped)

    def _stopped(self, outcome: object) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.release()
        if isinstance(outcome, Failure):
            self.log.failure("stopping to listen failed", failure=outcome)

"""The service that the options of ``twistd rkllm`` ask for."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from typing import Any

from msgspec import structs
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.python.failure import Failure

from rkllm_twisted import signals
from rkllm_twisted.access import Access
from rkllm_twisted.backends import bestBackend, makeBackend
from rkllm_twisted.backends.isolated.backend import IsolatedBackend
from rkllm_twisted.backends.isolated.limits import Limits
from rkllm_twisted.errors import RKLLMError
from rkllm_twisted.interfaces import IModelBackend, IRuntime
from rkllm_twisted.listening import AddressUnusable, HeldPath, serverEndpoint, unixPath
from rkllm_twisted.methods.answers import ANSWERS
from rkllm_twisted.options import Options
from rkllm_twisted.ranges import nearest
from rkllm_twisted.service import SYSTEMD, RKLLMService
from rkllm_twisted.systemd import NoSuchSocket, Notifier, inheritedSocket

__all__ = ["Options", "makeService"]


class NotStarted(SystemExit, Exception):
    """The daemon cannot start: ends the process with one line.

    It is an Exception too: of nothing else does ``twistd`` tell the process that has put the daemon into the
    background, which waits to hear how it went.
    """


class DaemonService(RKLLMService):
    """The service as a daemon: what keeps it from listening ends the process with one line."""

    def startService(self) -> None:
        """Start.

        Raises:
            NotStarted: It cannot listen.
        """
        try:
            super().startService()
        except (AddressUnusable, CannotListenError, NoSuchSocket, OSError, OverflowError) as error:
            raise NotStarted(f"rkllm: {error}") from None
        self._reactor.callWhenRunning(signals.install, self._reactor)
        self._notifier = Notifier(os.environ, self._reactor)
        self._reactor.callWhenRunning(self._notifier.ready)

    def stopService(self) -> Deferred[None]:
        """Stop, and say so to systemd."""
        self._notifier.stopping()
        return super().stopService()


def makeService(options: Options) -> RKLLMService:
    """The service that the options ask for.

    Raises:
        SystemExit: With one clear line, where something that they name is not there or cannot be used.
    """
    from twisted.internet import reactor

    try:
        description = options["backend"] or bestBackend()
        backend = makeBackend(description)
        for address, methods in options["listen"]:
            _checkListen(reactor, address)
            _checkMethods(methods)
        if options["model"] is not None:
            _checkModel(backend, options["model"])
        backend = _isolated(backend, description, reactor, options)
    except (ValueError, AddressUnusable, RKLLMError) as error:
        raise SystemExit(f"rkllm: {error}") from None
    return DaemonService(
        backend,
        [
            (address, Access(methods, options["allow-uid"], options["allow-gid"]))
            for address, methods in options["listen"]
        ],
        reactor,
        options["model"],
        maxClients=options["max-clients"],
        maxLine=options["max-line"],
        maxQueue=options["max-queue"],
        queueTimeout=options["queue-timeout"],
        maxReply=options["max-reply"],
        maxBacklog=options["max-backlog"],
        lineLimit=options["line-limit"],
        drain=options["drain"],
        modelRoots=options["model-root"],
    )


def _isolated(
    backend: IRuntime | IModelBackend, description: str, reactor: Any, options: Options
) -> IRuntime | IModelBackend:
    """The backend in a child process, unless it is to be in this one, or can be nowhere else."""
    if options["isolation"] == "none":
        return backend
    if not IRuntime.providedBy(backend):
        if options["isolation"] == "process":
            name = description.partition(":")[0]
            raise ValueError(f"--isolation process: the backend {name} is not a blocking one and stays in this process")
        return backend
    limits = Limits(
        init=options["init-limit"],
        prefill=options["prefill-limit"],
        prefillToken=options["prefill-token-limit"],
        token=options["token-limit"],
        abort=options["abort-limit"],
        crashes=options["max-crashes"],
        memory=options["max-memory"],
    )
    return IsolatedBackend(backend, description, reactor, limits)


def _checkListen(reactor: Any, listen: str) -> None:
    if listen.startswith(SYSTEMD):
        inheritedSocket(listen.removeprefix(SYSTEMD)).close()
        return
    try:
        serverEndpoint(reactor, listen)
    except ValueError as error:
        raise ValueError(f"--listen: {error}") from None
    path = unixPath(listen)
    if path is not None:
        HeldPath(path).release()


def _checkMethods(patterns: frozenset[str] | None) -> None:
    for pattern in patterns or ():
        if not any(fnmatchcase(name, pattern) for name in ANSWERS):
            raise ValueError(f"--methods: there is no method {pattern}{nearest(pattern, ANSWERS)}")


def _checkModel(backend: IRuntime | IModelBackend, model: str) -> None:
    """Refuse a model that can be seen to be none, as far as that takes no reactor."""
    checked = backend.checkParam(structs.replace(backend.createDefaultParam(), model_path=model))
    if isinstance(checked, Deferred):
        failures: list[Failure] = []
        checked.addErrback(failures.append)
        if failures:
            failures[0].raiseException()

"""The options of ``twistd rkllm``, and the service they make."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from msgspec import structs
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.python import usage
from twisted.python.failure import Failure

from rkllm_twisted import signals
from rkllm_twisted._version import __version__
from rkllm_twisted.access import Access
from rkllm_twisted.backends import backendMakers, bestBackend, makeBackend
from rkllm_twisted.backends.isolated.backend import IsolatedBackend
from rkllm_twisted.backends.isolated.limits import Limits
from rkllm_twisted.errors import RKLLMError
from rkllm_twisted.interfaces import IModelBackend, IRuntime
from rkllm_twisted.listening import AddressUnusable, HeldPath, serverEndpoint, unixPath
from rkllm_twisted.methods.results import ANSWERS
from rkllm_twisted.ranges import nearest
from rkllm_twisted.server import LINE_LIMIT, MAX_BACKLOG
from rkllm_twisted.service import DEFAULT_PATH, SYSTEMD, RKLLMService
from rkllm_twisted.systemd import NoSuchSocket, Notifier, inheritedSocket
from rkllm_twisted.values import MAX_REPLY


class Options(usage.Options):
    """What ``twistd rkllm --help`` shows.

    Args:
        environ: Where ``RKLLM_UDS_PATH`` and ``RKLLM_MAX_CLIENTS`` are looked up; the process's environment by default.
    """

    synopsis = "[options]"
    longdesc = (
        "Serve a language model to every program on this machine: JSON-RPC 2.0 on a Unix socket, streamed token by "
        "token. Without options it listens on $RKLLM_UDS_PATH, else /tmp/rkllm.sock, with the best backend that this "
        "machine can run, and a client loads the model (rkllm.init)."
    )
    optParameters = [
        ["backend", "b", None, "Backend as NAME:key=value:..., e.g. llamacpp:threads=2 [the best one usable]"],
        ["model", "m", None, "Model to load at start: a file, or a short name such as smollm2 [none]"],
        ["max-clients", None, None, "The most connections at a time [$RKLLM_MAX_CLIENTS, else 100]"],
        ["max-queue", None, "64", "The most requests that wait for the model"],
        ["max-line", None, str(16 * 2**20), "The longest line of a client, in bytes"],
        ["max-reply", None, str(MAX_REPLY), "The longest result with tensors in it, in bytes"],
        ["max-backlog", None, str(MAX_BACKLOG), "The bytes that may wait for a client that does not read its stream"],
        ["isolation", None, None, "Where the runtime runs: process (a child of its own) or none [process if it can]"],
        ["init-limit", None, "600", "Seconds that loading a model may take before its process is killed"],
        ["prefill-limit", None, "60", "Seconds from the start of a run to its first result, whatever its prompt"],
        ["prefill-token-limit", None, "0.06", "Seconds more for each token of the prompt"],
        ["token-limit", None, "60", "Seconds from one result of a run to the next"],
        ["abort-limit", None, "30", "Seconds from an abort to the end of the run"],
        ["max-crashes", None, "5", "Deaths of the runtime's process within a minute after which it is not restarted"],
        [
            "max-memory",
            None,
            None,
            "Bytes of the runtime's process above which it is exchanged between two runs [none]",
        ],
        ["line-limit", None, str(LINE_LIMIT), "Seconds within which a line that a client has begun must end"],
        ["drain", None, "0", "Seconds that generations in progress may go on after SIGTERM"],
        ["allow-uid", None, None, "Users that may connect, as numbers or names with commas between [all]"],
        ["allow-gid", None, None, "Groups whose members may connect, as numbers or names with commas between [all]"],
        ["queue-timeout", None, None, "Seconds after which a request that still waits is refused [none]"],
    ]

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        super().__init__()
        self._environ = environ
        self["listen"] = []
        self["model-root"] = []

    def opt_listen(self, address: str) -> None:
        """Server endpoint string, e.g. unix:/run/rkllm.sock:mode=660; may be repeated [unix:$RKLLM_UDS_PATH]"""
        self["listen"].append((address, None))

    opt_l = opt_listen

    def opt_methods(self, names: str) -> None:
        """The methods allowed at the --listen before it, with commas between; * stands for anything [all]"""
        if not self["listen"]:
            raise usage.UsageError("--methods: expected a --listen before it")
        address, before = self["listen"].pop()
        if before is not None:
            raise usage.UsageError(f"--methods: given twice for --listen {address}")
        allowed = frozenset(filter(None, map(str.strip, names.split(","))))
        if not allowed:
            raise usage.UsageError(f"--methods: expected names of methods, got {names!r}")
        self["listen"].append((address, allowed))

    def opt_model_root(self, path: str) -> None:
        """Directory below which clients may name models, adapters and caches; may be repeated [everywhere]"""
        self["model-root"].append(path)

    def opt_list_backends(self) -> None:
        """List the backends, and whether each can run here."""
        for maker in backendMakers():
            reason = maker.unusable()
            usable = "usable" if reason is None else f"not usable here: {reason}"
            print(f"{maker.name:10} {maker.description} ({usable})")  # noqa: T201  # the answer to the option
        raise SystemExit(0)

    def opt_version(self) -> None:
        """Show the version."""
        print(f"rkllm-twisted {__version__}")  # noqa: T201  # the answer to the option
        raise SystemExit(0)

    def parseArgs(self, *extra: str) -> None:
        """There are only options."""
        if extra:
            raise usage.UsageError(f"{extra[0]!r}: unexpected, options begin with --")

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse, and end with one clear line where something is wrong (twistd would show all help and succeed)."""
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            raise SystemExit(f"rkllm: {error}") from None

    def postOptions(self) -> None:
        """Fill in what the environment says, and refuse values that are wrong."""
        if not self["listen"]:
            # A colon in a path would end it in an endpoint string.
            path = self._environ.get("RKLLM_UDS_PATH") or DEFAULT_PATH
            self["listen"].append(("unix:" + path.replace("\\", "\\\\").replace(":", "\\:"), None))
        addresses = [address for address, _ in self["listen"]]
        if twice := next((each for each in addresses if addresses.count(each) > 1), None):
            raise usage.UsageError(f"--listen: {twice} is given twice")
        for name, find in (("allow-uid", _uid), ("allow-gid", _gid)):
            if self[name] is not None:
                self[name] = frozenset(find(each) for each in self[name].split(","))
        source = "--max-clients"
        if self["max-clients"] is None:
            source, self["max-clients"] = "RKLLM_MAX_CLIENTS", self._environ.get("RKLLM_MAX_CLIENTS") or "100"
        self["max-clients"] = _positive(source, self["max-clients"])
        for name in ("max-queue", "max-line", "max-reply", "max-backlog", "max-crashes"):
            self[name] = _positive(f"--{name}", self[name])
        for name in ("init-limit", "prefill-limit", "prefill-token-limit", "token-limit", "abort-limit", "line-limit"):
            self[name] = _seconds(f"--{name}", self[name])
        for path in self["model-root"]:
            if not os.path.isdir(path):
                raise usage.UsageError(f"--model-root: {path} is no directory")
        self["drain"] = _seconds("--drain", self["drain"], orNone=True)
        if self["max-memory"] is not None:
            self["max-memory"] = _positive("--max-memory", self["max-memory"])
        if self["isolation"] not in (None, "process", "none"):
            raise usage.UsageError(f"--isolation: expected process or none, got {self['isolation']!r}")
        if self["queue-timeout"] is not None:
            self["queue-timeout"] = _seconds("--queue-timeout", self["queue-timeout"])


def _uid(name: str) -> int:
    return _idOf("--allow-uid", "user", name, lambda: pwd.getpwnam(name).pw_uid)


def _gid(name: str) -> int:
    return _idOf("--allow-gid", "group", name, lambda: grp.getgrnam(name).gr_gid)


def _idOf(option: str, kind: str, name: str, find: Callable[[], int]) -> int:
    if name.isascii() and name.isdecimal():
        return int(name)
    try:
        return find()
    except KeyError:
        raise usage.UsageError(f"{option}: there is no {kind} {name!r}") from None


def _positive(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not int(text):
        raise usage.UsageError(f"{name}: expected a whole number from 1 up, got {text!r}")
    return int(text)


def _seconds(name: str, text: str, orNone: bool = False) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf") or not (seconds or orNone):
        raise usage.UsageError(f"{name}: expected seconds{'' if orNone else ' above 0'}, got {text!r}")
    return seconds


class NotStarted(SystemExit, Exception):
    """The daemon cannot start: ends the process with one line.

    It is an Exception too: of nothing else does `twistd` tell the process that has put the daemon into the background,
    which waits to hear how it went.
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

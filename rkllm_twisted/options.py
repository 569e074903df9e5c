"""What ``twistd rkllm`` is told on its command line and by the environment."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from twisted.python import usage

from rkllm_twisted._version import __version__
from rkllm_twisted.backends import backendMakers
from rkllm_twisted.backends.isolated.limits import Limits
from rkllm_twisted.listening import absolute
from rkllm_twisted.scheduling.scheduler import MAX_QUEUE
from rkllm_twisted.server import LINE_LIMIT, MAX_BACKLOG, MAX_CLIENTS, MAX_LINE
from rkllm_twisted.service import DEFAULT_PATH
from rkllm_twisted.values import MAX_REPLY

LIMITS = Limits()


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
        ["max-clients", None, None, f"The most connections at a time [$RKLLM_MAX_CLIENTS, else {MAX_CLIENTS}]"],
        ["max-queue", None, str(MAX_QUEUE), "The most requests that wait for the model"],
        ["max-line", None, str(MAX_LINE), "The longest line of a client, in bytes"],
        ["max-reply", None, str(MAX_REPLY), "The longest result with tensors in it, in bytes"],
        ["max-backlog", None, str(MAX_BACKLOG), "The bytes that may wait for a client that does not read its stream"],
        ["isolation", None, None, "Where the runtime runs: process (a child of its own) or none [process if it can]"],
        ["init-limit", None, f"{LIMITS.init:g}", "Seconds that loading a model may take before its process is killed"],
        ["prefill-limit", None, f"{LIMITS.prefill:g}", "Seconds to the first result of a run, whatever its prompt"],
        ["prefill-token-limit", None, f"{LIMITS.prefillToken:g}", "Seconds more for each token of the prompt"],
        ["token-limit", None, f"{LIMITS.token:g}", "Seconds from one result of a run to the next"],
        ["abort-limit", None, f"{LIMITS.abort:g}", "Seconds from an abort to the end of the run"],
        [
            "max-crashes",
            None,
            str(LIMITS.crashes),
            "Deaths of the runtime's process within a minute that end it for good",
        ],
        ["max-memory", None, None, "Bytes of the runtime's process above which it is replaced between two runs [none]"],
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
        # Between this and the start twistd changes to its --rundir; what is relative is meant here.
        self["listen"] = [(_absolute(address), methods) for address, methods in self["listen"]]
        if self["model"] is not None and _isFile(self["model"]):
            self["model"] = os.path.abspath(self["model"])
        addresses = [address for address, _ in self["listen"]]
        if twice := next((each for each in addresses if addresses.count(each) > 1), None):
            raise usage.UsageError(f"--listen: {twice} is given twice")
        for path in self["model-root"]:
            if not os.path.isdir(path):
                raise usage.UsageError(f"--model-root: {path} is no directory")
        source = "--max-clients"
        if self["max-clients"] is None:
            source, self["max-clients"] = (
                "RKLLM_MAX_CLIENTS",
                self._environ.get("RKLLM_MAX_CLIENTS") or str(MAX_CLIENTS),
            )
        self["max-clients"] = _positive(source, self["max-clients"])
        for name, read in READERS.items():
            if self[name] is not None:
                self[name] = read(f"--{name}", self[name])


def _absolute(listen: str) -> str:
    try:
        return absolute(listen)
    except ValueError as error:
        raise usage.UsageError(f"--listen: {error}") from None


def _isFile(model: str) -> bool:
    """Whether a model is named by a path; a name without slash and suffix may be a short one of the backend's own."""
    return ("/" in model or "." in model) and os.path.isfile(model)


def _positive(source: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not int(text):
        raise usage.UsageError(f"{source}: expected a whole number from 1 up, got {text!r}")
    return int(text)


def _seconds(source: str, text: str) -> float:
    return _number(source, text, "seconds above 0", lambda seconds: 0 < seconds < float("inf"))


def _secondsOrNone(source: str, text: str) -> float:
    return _number(source, text, "seconds", lambda seconds: 0 <= seconds < float("inf"))


def _number(source: str, text: str, expected: str, fits: Callable[[float], bool]) -> float:
    with suppress(ValueError):
        if fits(number := float(text)):
            return number
    raise usage.UsageError(f"{source}: expected {expected}, got {text!r}")


def _isolation(source: str, text: str) -> str:
    if text not in ("process", "none"):
        raise usage.UsageError(f"{source}: expected process or none, got {text!r}")
    return text


def _uids(source: str, names: str) -> frozenset[int]:
    return frozenset(_id(source, "user", name, lambda name: pwd.getpwnam(name).pw_uid) for name in names.split(","))


def _gids(source: str, names: str) -> frozenset[int]:
    return frozenset(_id(source, "group", name, lambda name: grp.getgrnam(name).gr_gid) for name in names.split(","))


def _id(source: str, kind: str, name: str, find: Callable[[str], int]) -> int:
    if name.isascii() and name.isdecimal():
        return int(name)
    try:
        return find(name)
    except KeyError:
        raise usage.UsageError(f"{source}: there is no {kind} {name!r}") from None


READERS: dict[str, Callable[[str, str], object]] = {
    "max-queue": _positive,
    "max-line": _positive,
    "max-reply": _positive,
    "max-backlog": _positive,
    "isolation": _isolation,
    "init-limit": _seconds,
    "prefill-limit": _seconds,
    "prefill-token-limit": _seconds,
    "token-limit": _seconds,
    "abort-limit": _seconds,
    "max-crashes": _positive,
    "max-memory": _positive,
    "line-limit": _seconds,
    "drain": _secondsOrNone,
    "allow-uid": _uids,
    "allow-gid": _gids,
    "queue-timeout": _seconds,
}
"""What makes a value of the text of an option; what is left out and has no default stays None."""

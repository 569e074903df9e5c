"""Where to listen: endpoint strings, and holding the path of a Unix socket (W-SOCKET)."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import stat
from contextlib import suppress
from typing import Any

from twisted.internet.endpoints import UNIXServerEndpoint, serverFromString
from twisted.internet.interfaces import IStreamServerEndpoint

from rkllm_twisted.backends import joinDescription, splitDescription
from rkllm_twisted.ranges import MAX_SOCKET_PATH


class AddressUnusable(Exception):
    """The path cannot be listened on; the message says why."""


class InUse(AddressUnusable):
    """A server is listening there."""


def unixPath(listen: str) -> str | None:
    """The path in the file system that a server endpoint string names; None for any other endpoint."""
    return _unixOptions(listen)["address"] if listen.startswith("unix:") else None


def absolute(listen: str) -> str:
    """The same server endpoint string for a process in another directory: the path of a Unix socket is absolute."""
    path = unixPath(listen)
    if path is None or os.path.isabs(path):
        return listen
    return joinDescription("unix", {**_unixOptions(listen), "address": os.path.abspath(path)})


def serverEndpoint(reactor: Any, listen: str) -> IStreamServerEndpoint:
    """The endpoint of a string. A Unix socket is for its owner alone unless the string has a ``mode``.

    Raises:
        ValueError: The string is none.
    """
    if not listen.startswith("unix:"):
        try:
            endpoint: IStreamServerEndpoint = serverFromString(reactor, listen)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{listen!r} is no server endpoint string such as unix:/run/rkllm.sock: {error}") from None
        return endpoint
    options = _unixOptions(listen)
    mode, backlog = options.get("mode", "600"), options.get("backlog", "128")
    if not re.fullmatch("0?[0-7]{1,3}", mode) or not re.fullmatch("[1-9][0-9]{0,5}", backlog):
        raise ValueError(f"{listen!r}: expected mode as octal digits up to 777 and backlog as a number from 1 up")
    # wantPID is Twisted's lock file; `HeldPath` does more than that.
    return UNIXServerEndpoint(reactor, options["address"], backlog=int(backlog), mode=int(mode, 8), wantPID=False)


def _unixOptions(listen: str) -> dict[str, str]:
    """The options of ``unix:PATH:mode=…:backlog=…``; ``lockfile`` is known to Twisted and of no use here."""
    _, options = splitDescription(listen, unnamed="address")
    unknown = set(options) - {"address", "mode", "backlog", "lockfile"}
    if unknown or not options["address"]:
        wrong = f"unknown option {min(unknown)}" if unknown else "no path"
        raise ValueError(f"{listen!r}: {wrong}; expected unix:PATH:mode=660")
    return options


def probe(path: str) -> None:
    """Refuse a path that cannot be listened on, and clear away a socket that nobody listens on any more.

    Twisted's own lock file is not enough: a socket may be left without one, by another program, and a process id found
    in a left one may live again as somebody else.

    Args:
        path: In the file system.

    Raises:
        AddressUnusable: As `isStale`.
    """
    if not isStale(path):
        return
    try:
        for left in (path, f"{path}.lock"):
            with suppress(FileNotFoundError):
                os.unlink(left)
    except OSError as error:
        raise AddressUnusable(f"{path}: {error.strerror}") from None


def isStale(path: str) -> bool:
    """Whether a socket was left at a path that can be listened on. Changes nothing.

    Args:
        path: In the file system.

    Raises:
        AddressUnusable: Somebody answers there (`InUse`), or it is no socket, or nothing can be made there.
    """
    _checkPlace(path)
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    except OSError as error:
        raise AddressUnusable(f"{path}: {error.strerror}") from None
    if not stat.S_ISSOCK(mode):
        raise AddressUnusable(f"{path}: there is a file that is not a socket; remove it or choose another path")
    return _isRefused(path)


def _checkPlace(path: str) -> None:
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise AddressUnusable(f"{path}: the path of a Unix socket may have {MAX_SOCKET_PATH} bytes, this one is longer")
    if not os.access(os.path.dirname(path) or ".", os.W_OK | os.X_OK):
        raise AddressUnusable(f"{path}: its directory does not exist or cannot be written to")


def _isRefused(path: str) -> bool:
    """Whether nobody listens on a socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        found = client.connect_ex(path)
    if found in (0, errno.EAGAIN):
        raise InUse(f"{path}: a server is listening there already")
    if found not in (errno.ECONNREFUSED, errno.ENOENT):
        raise AddressUnusable(f"{path}: {os.strerror(found)}")
    return found == errno.ECONNREFUSED


class HeldPath:
    """The right to a path, held by a lock that ends with the process, whatever way that ends.

    Raises:
        AddressUnusable: As `probe`, or another daemon holds it.
    """

    def __init__(self, path: str) -> None:
        _checkPlace(path)
        self._name = f"{path}.flock"
        self._descriptor = self._lock(path)
        try:
            probe(path)
        except AddressUnusable:
            self.release()
            raise

    def release(self) -> None:
        """Give the path up."""
        with suppress(FileNotFoundError):
            os.unlink(self._name)
        os.close(self._descriptor)

    def _lock(self, path: str) -> int:
        while True:
            try:
                descriptor = os.open(self._name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError as error:
                raise AddressUnusable(f"{self._name}: {error.strerror}") from None
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(descriptor)
                raise AddressUnusable(f"{path}: another daemon holds it, or is starting there") from None
            if self._isCurrent(descriptor):
                return descriptor
            os.close(descriptor)  # its holder removed the file between our open and our lock

    def _isCurrent(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._name))
        except FileNotFoundError:
            return False

"""What the daemon says to systemd, and the sockets that it is given by it (sd_notify(3), sd_listen_fds(3)).

Twisted's own ``systemd:`` endpoint opens a Unix socket that was passed on to everybody (mode 0666) and removes it when
the daemon stops, while systemd still listens there (twisted issue 10261). So inherited sockets are accepted from here.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

from twisted.internet.interfaces import IProtocolFactory, IReadDescriptor
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

PAUSE = 1.0
"""Seconds without accepting, after that has failed."""
ACCEPTED = 64
"""The most connections that are accepted at a time, so that others have their turn."""


class NoSuchSocket(ValueError):
    """systemd has passed on no such socket. The message says which there are."""


class Notifier:
    """Tells systemd how the daemon is; does nothing where nobody asked for it.

    Args:
        environ: Has ``NOTIFY_SOCKET``, and ``WATCHDOG_USEC`` with ``WATCHDOG_PID``, where they are wanted.
        clock: Tells the time.
    """

    log = Logger()

    def __init__(self, environ: Mapping[str, str], clock: Any) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog = LoopingCall(self._say, "WATCHDOG=1")
        self._watchdog.clock = clock
        self._interval = _watchdogSeconds(environ) / 2

    def ready(self) -> None:
        """The daemon listens. From here on it says regularly that its reactor is not stuck."""
        self._say(f"READY=1\nMAINPID={os.getpid()}")
        if self._interval and self._address and not self._watchdog.running:
            self._watchdog.start(self._interval)

    def stopping(self) -> None:
        """The daemon has begun to stop."""
        if self._watchdog.running:
            self._watchdog.stop()
        self._say("STOPPING=1")

    def _say(self, text: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as to:
                to.sendto(text.encode(), self._address)
        except OSError as error:
            self.log.warn("systemd cannot be told {text!r}: {reason}", text=text, reason=error.strerror)


def _watchdogSeconds(environ: Mapping[str, str]) -> float:
    isForUs = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    microseconds = environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if isForUs and microseconds.isdecimal() else 0.0


def inheritedSocket(name: str, environ: Mapping[str, str] = os.environ, first: int = 3) -> socket.socket:
    """A listening socket that systemd has passed on.

    ``LISTEN_FDS`` and ``LISTEN_PID`` are not looked at: Twisted takes them out of the environment when it is imported.
    What a name or a number leads to is looked at instead. Others than systemd may pass on sockets without names.

    Args:
        name: Its ``FileDescriptorName=``, which is by default the name of the socket unit; or its number, from 0.
        environ: Has ``LISTEN_FDNAMES``.
        first: The descriptor of the first one.

    Raises:
        NoSuchSocket: There is none of that name.
    """
    names = [each for each in environ.get("LISTEN_FDNAMES", "").split(":") if each]
    number = names.index(name) if name in names else int(name) if _isNumber(name) else None
    if number is None or not _isListening(first + number):
        known = ", ".join(f"{each} ({index})" for index, each in enumerate(names)) or "none"
        raise NoSuchSocket(f"systemd has passed on no listening socket {name!r}; passed on: {known}")
    inherited = socket.socket(fileno=os.dup(first + number))
    inherited.setblocking(False)
    return inherited


def _isNumber(name: str) -> bool:
    return name.isascii() and name.isdecimal() and len(name) < 5


def _isListening(descriptor: int) -> bool:
    try:
        with socket.socket(fileno=os.dup(descriptor)) as found:
            return bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False


@implementer(IReadDescriptor)
class InheritedPort:
    """Accepts connections on a socket that somebody else has made, and will have when this process is gone.

    Args:
        inherited: The socket; closed at the end, and not removed.
        factory: Makes the protocols.
        reactor: The reactor.
    """

    log = Logger()

    def __init__(self, inherited: socket.socket, factory: IProtocolFactory, reactor: Any) -> None:
        self._socket = inherited
        self._factory = factory
        self._reactor = reactor
        self._resumption: Any = None

    def startListening(self) -> None:
        """Accept from here on."""
        self._factory.doStart()
        self._reactor.addReader(self)

    def stopListening(self) -> None:
        """Accept no more; systemd goes on listening, for the next daemon."""
        if self._resumption is not None and self._resumption.active():
            self._resumption.cancel()
        self._reactor.removeReader(self)
        self._socket.close()
        self._factory.doStop()

    def fileno(self) -> int:
        """Of the socket."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """For the log."""
        return type(self).__name__

    def doRead(self) -> None:
        """Somebody connects."""
        try:
            for _ in range(ACCEPTED):
                self._accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            self.log.error("a connection cannot be accepted: {reason}", reason=error.strerror)
            self._pause()

    def _accept(self) -> None:
        connection, _address = self._socket.accept()
        with connection:  # the reactor takes a descriptor of its own
            self._reactor.adoptStreamConnection(connection.fileno(), connection.family, self._factory)

    def _pause(self) -> None:
        """Without a free descriptor the socket would be reported again at once, and for ever."""
        self._reactor.removeReader(self)
        self._resumption = self._reactor.callLater(PAUSE, self._reactor.addReader, self)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor gives up on the descriptor, which happens when it stops."""
        self._socket.close()

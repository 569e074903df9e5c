"""What signals mean to the daemon."""

from __future__ import annotations

import gc
import signal
from typing import Any

from twisted.logger import Logger
from twisted.python.logfile import BaseLogFile

log = Logger()


def install(reactor: Any) -> None:
    """Give signals their meanings. To be called in the main thread when the reactor has installed its own handlers.

    The first SIGTERM or SIGINT stops the daemon, as Twisted has it; the second ends the process at once, where Twisted
    would only log that it is stopping already. SIGHUP reopens the log files, for whoever has moved them away.

    Args:
        reactor: Reopens them, since a signal comes at any moment: in the middle of writing to one, too.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        _endAtSecond(number)
    signal.signal(signal.SIGHUP, lambda number, frame: reactor.callFromThread(reopenLogs))


def _endAtSecond(number: signal.Signals) -> None:
    stop: Any = signal.getsignal(number)
    if callable(stop):

        def first(received: int, frame: Any) -> None:
            for each in (signal.SIGTERM, signal.SIGINT):
                signal.signal(each, signal.SIG_DFL)
            stop(received, frame)

        signal.signal(number, first)


def reopenLogs() -> None:
    """Open each log file of this process anew under its name; one that cannot be opened stays the one it was.

    They belong to whoever has started the log, ``twistd`` or another, and nobody hands them on.
    """
    # Not isinstance, which asks an object for its class: a weak reference whose object is gone raises then.
    for found in [one for one in gc.get_objects() if issubclass(type(one), BaseLogFile)]:
        if not found.closed:
            _reopen(found)


def _reopen(file: BaseLogFile) -> None:
    try:
        with open(file.path, "ab"):  # Twisted would close the old one first, and log nowhere from then on
            pass
    except OSError as error:
        log.error("log file {path} cannot be reopened: {reason}", path=file.path, reason=error.strerror)
    else:
        file.reopen()
        log.info("log file {path} reopened", path=file.path)

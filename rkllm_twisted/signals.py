"""What signals mean to the daemon."""

from __future__ import annotations

import gc
import signal
from typing import Any

from twisted.logger import Logger
from twisted.python.logfile import BaseLogFile

log = Logger()


def install() -> None:
    """Give signals their meanings. To be called in the main thread when the reactor has installed its own handlers.

    The first SIGTERM or SIGINT stops the daemon, as Twisted has it; the second ends the process at once, where Twisted
    would only log that it is stopping already. SIGHUP reopens the log files, for whoever has moved them away.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        _endAtSecond(number)
    signal.signal(signal.SIGHUP, lambda number, frame: reopenLogs())


def _endAtSecond(number: signal.Signals) -> None:
    stop: Any = signal.getsignal(number)
    if callable(stop):

        def first(received: int, frame: Any) -> None:
            for each in (signal.SIGTERM, signal.SIGINT):
                signal.signal(each, signal.SIG_DFL)
            stop(received, frame)

        signal.signal(number, first)


def reopenLogs() -> None:
    """Open each log file of this process anew under its name.

    They belong to whoever has started the log, `twistd` or another, and nobody hands them on.
    """
    for found in gc.get_objects():
        if isinstance(found, BaseLogFile):
            found.reopen()
    log.info("log files reopened")

"""Orders to end a run, given to the library in a thread of their own.

``rkllm_abort`` may be called from another thread (airockchip/rknn-llm issue 382); that it returns at once when it is
called inside the result callback is known of 1.3.1 only. A thread of its own keeps whoever wants an end, the reactor or
the callback, from waiting for it, whatever the release does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

FIRST_WAIT, LONGEST_WAIT = 0.05, 2.0
"""Seconds until an order is given again, doubled each time: one is lost that comes before the library has begun the
run, or that a release does not obey (a board test of 1.2.0 calls it best effort)."""


class Interruption:
    """The end of one run, wanted or not.

    Args:
        abort: Calls ``rkllm_abort``.
    """

    def __init__(self, abort: Callable[[], object]) -> None:
        self._abort = abort
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def order(self) -> None:
        """Have the run aborted. From any thread, any number of times; returns at once."""
        with self._lock:
            if self._thread is None and not self._over.is_set():
                self._thread = threading.Thread(target=self._insist, name="rkllm_abort", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """The run has returned: no order is given from now on, and one that is being given is waited for.

        An abort that came after its run might hit the next one.
        """
        with self._lock:
            self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _insist(self) -> None:
        wait = FIRST_WAIT
        while not self._over.is_set():
            self._abort()
            self._over.wait(wait)
            wait = min(2 * wait, LONGEST_WAIT)

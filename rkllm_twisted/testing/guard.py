"""A pytest plugin: nothing may fail unseen. Load it with ``pytest_plugins = ["rkllm_twisted.testing.guard"]``."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from twisted.logger import ILogObserver, LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import provider

LoggedErrors = list[Failure]


@pytest.fixture
def flushErrors(_guard: LoggedErrors) -> Callable[..., LoggedErrors]:
    """A function that takes the logged failures of the given types away from the guard and returns them."""

    def flush(*types: type[BaseException]) -> LoggedErrors:
        gc.collect()
        flushed = [failure for failure in _guard if failure.check(*types)]
        _guard[:] = [failure for failure in _guard if not failure.check(*types)]
        return flushed

    return flush


@pytest.fixture(autouse=True, scope="module")
def _frozen() -> None:
    """What is there before the tests of a module is not looked through again by the collection after each of them."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _guard() -> Iterator[LoggedErrors]:
    """Fails the test for a failure that nobody handled, an error that was logged, or a call left waiting.

    pytest-twisted lets all three pass.
    """
    before = set(_delayedCalls())
    with loggedErrors() as errors:
        yield errors
        gc.collect()
    left = [str(call) for call in _delayedCalls() if call not in before]
    assert not errors, "logged: " + "; ".join(failure.getTraceback() for failure in errors)
    assert not left, f"left waiting: {left}"


@contextmanager
def loggedErrors() -> Iterator[LoggedErrors]:
    """What is logged as an error while in this; one without a failure is a RuntimeError of what was logged."""
    errors: LoggedErrors = []

    @provider(ILogObserver)
    def observe(event: dict[str, Any]) -> None:
        if event["log_level"] is not None and event["log_level"] >= LogLevel.error:
            # "failure" is what Twisted of 24.3 has of an error in its reactor.
            failure = event.get("log_failure") or event.get("failure")
            errors.append(failure or Failure(RuntimeError(str(event.get("log_format")))))

    globalLogPublisher.addObserver(observe)
    try:
        yield errors
    finally:
        globalLogPublisher.removeObserver(observe)


def _delayedCalls() -> list[Any]:
    from twisted.internet import reactor

    real: Any = reactor
    return list(real.getDelayedCalls())

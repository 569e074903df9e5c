"""Children with faults."""

import sys

import pytest
import pytest_twisted
from twisted.logger import globalLogPublisher

from tests.backends.isolated.children import PLUGIN, Children, zombies


@pytest.fixture(scope="session", autouse=True)
def plugin():
    """The other package's backend, as if it were installed."""
    sys.path.append(str(PLUGIN))
    yield
    sys.path.remove(str(PLUGIN))


@pytest_twisted.async_yield_fixture
async def children(flushErrors):
    """What loads models in children; all are destroyed afterwards, and leave no zombie."""
    children = Children(flushErrors)
    yield children
    await children.close()
    assert not zombies()


@pytest.fixture
def logged():
    """Log events of the test, in order."""
    events = []
    globalLogPublisher.addObserver(events.append)
    yield events
    globalLogPublisher.removeObserver(events.append)

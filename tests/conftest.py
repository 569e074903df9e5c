"""What all tests share."""

import pytest
from twisted.logger import globalLogPublisher

pytest_plugins = ("rkllm_twisted.testing.guard",)


@pytest.fixture
def logged():
    """Log events of the test, in order."""
    events = []
    globalLogPublisher.addObserver(events.append)
    yield events
    globalLogPublisher.removeObserver(events.append)

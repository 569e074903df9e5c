"""A server that says exactly the lines of the wire contract, with the client that is connected to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.spoken_server import SpokenServer, connected


@pytest.fixture
def server() -> Iterator[SpokenServer]:
    server = connected()
    yield server
    server.hangUp()

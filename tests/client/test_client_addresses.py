"""What an address is: a path, an endpoint string, or nothing that a socket can have."""

from __future__ import annotations

import pytest
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint
from twisted.internet.testing import MemoryReactorClock

from rkllm_twisted.client import RKLLMClient, endpointOf


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("/tmp/a.sock", UNIXClientEndpoint),
        ("a.sock", UNIXClientEndpoint),
        ("./unix:a", UNIXClientEndpoint),
        ("/tmp/a:b", UNIXClientEndpoint),
        ("unix:/tmp/a.sock", UNIXClientEndpoint),
        ("tcp:localhost:1", TCP4ClientEndpoint),
    ],
)
def test_endpointOf(address: str, kind: type) -> None:
    endpoint = endpointOf(MemoryReactorClock(), address)
    assert isinstance(endpoint, kind)
    if address.startswith("unix:"):
        assert endpoint._path == "/tmp/a.sock"


def test_endpointOfAKindNotKnown() -> None:
    with pytest.raises(ValueError, match="carrierpigeon"):
        endpointOf(MemoryReactorClock(), "carrierpigeon:x")


@pytest.mark.parametrize("address", ["tcp:bad", "tcp:h:x", "tcp:h:1:odd=2", "unix:lockfile=1", "unix:a\\", "tls:h"])
def test_endpointOfNoEndpointString(address: str) -> None:
    with pytest.raises(ValueError, match="no client endpoint string"):
        endpointOf(MemoryReactorClock(), address)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("x" * 108, "at most 107 bytes, this one has 108"),
        ("é" * 54, "at most 107 bytes, this one has 108"),
        ("unix:" + "x" * 108, "at most 107 bytes, this one has 108"),
        ("tcp:h:65536", "from 0 to 65535, this one is 65536"),
        ("tcp:h:-1", "from 0 to 65535, this one is -1"),
    ],
)
def test_endpointOfWhatNoSocketCanHave(address: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RKLLMClient.connectTo(MemoryReactorClock(), address)


@pytest.mark.parametrize("address", ["x" * 107, "unix:" + "x" * 107, "tcp:h:65535"])
def test_endpointOfWhatASocketCanJustHave(address: str) -> None:
    endpointOf(MemoryReactorClock(), address)

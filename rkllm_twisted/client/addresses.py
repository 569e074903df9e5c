"""Where a daemon is: the path of a socket, or an endpoint string."""

from __future__ import annotations

import os
import re
from typing import Any

from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint, clientFromString
from twisted.internet.interfaces import IStreamClientEndpoint

from rkllm_twisted.ranges import MAX_SOCKET_PATH


def endpointOf(reactor: Any, address: str) -> IStreamClientEndpoint:
    """The endpoint of the daemon at an address.

    Args:
        reactor: Connects.
        address: The path of a Unix socket, or a client endpoint string such as ``unix:/run/rkllm.sock``. What begins
            with a word and a colon is an endpoint string, all else is a path.

    Raises:
        ValueError: It is no endpoint string that Twisted knows, or no socket can have that path or port.
    """
    isPath = not isEndpointString(address)
    endpoint = UNIXClientEndpoint(reactor, address) if isPath else _endpointFromString(reactor, address)
    _checkSocket(endpoint)
    return endpoint


def isEndpointString(address: str) -> bool:
    """Whether `endpointOf` takes an address for an endpoint string, and not for a path."""
    return re.match(r"\w+:", address) is not None


def _endpointFromString(reactor: Any, address: str) -> IStreamClientEndpoint:
    try:
        endpoint: IStreamClientEndpoint = clientFromString(reactor, address)
    # NameError: Twisted is installed without TLS. RuntimeError: the string ends within an escape.
    except (ValueError, TypeError, KeyError, NameError, RuntimeError, OSError) as error:
        raise ValueError(f"no client endpoint string such as unix:/run/rkllm.sock: {error}") from error
    return endpoint


def _checkSocket(endpoint: IStreamClientEndpoint) -> None:
    """Refuse what the socket would: in the reactor nobody hears of it, and whoever connects waits forever."""
    length = len(os.fsencode(endpoint._path)) if isinstance(endpoint, UNIXClientEndpoint) else 0
    if length > MAX_SOCKET_PATH:
        raise ValueError(f"the path of a socket has at most {MAX_SOCKET_PATH} bytes, this one has {length}")
    port = endpoint._port if isinstance(endpoint, TCP4ClientEndpoint) else 0
    if not 0 <= port <= 65535:
        raise ValueError(f"the port of a socket is a number from 0 to 65535, this one is {port}")

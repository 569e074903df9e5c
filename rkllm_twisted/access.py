"""Who may use a socket, and for what."""

from __future__ import annotations

import socket
import struct
from fnmatch import fnmatchcase
from typing import Any

from msgspec import Struct
from twisted.internet.interfaces import ISystemHandle

from rkllm_twisted.wire.connection import Peer

SO_PEERGROUPS = 59  # asm-generic/socket.h; Linux 4.13
LONGEST_OPTION = 1024
"""Bytes; Python's ``socket.getsockopt`` refuses to read more."""
ALWAYS = frozenset({"$/cancelRequest"})
"""Methods that are about a client's own requests only."""


class Access(Struct, frozen=True):
    """What is allowed at one socket.

    Attributes:
        methods: The methods that may be called, as names or patterns such as ``server.*``; None allows all.
        uids: The users that may connect; None allows all.
        gids: The groups of which a user that may connect is in one; None allows all. With both, either is enough.
    """

    methods: frozenset[str] | None = None
    uids: frozenset[int] | None = None
    gids: frozenset[int] | None = None

    def permits(self, method: str) -> bool:
        """Whether a method may be called."""
        if self.methods is None or method in ALWAYS:
            return True
        return any(fnmatchcase(method, pattern) for pattern in self.methods)

    def admits(self, peer: Peer | None, groups: frozenset[int]) -> bool:
        """Whether a peer may connect.

        Args:
            peer: Who it is; None where the transport cannot tell, who is admitted only where everybody is.
            groups: The groups that it is in beside its own.
        """
        if self.uids is None and self.gids is None:
            return True
        if peer is None:
            return False
        return peer.uid in (self.uids or ()) or not (self.gids or frozenset()).isdisjoint({peer.gid, *groups})


def groupsOf(transport: Any) -> frozenset[int]:
    """The supplementary groups of the peer of a Unix socket, as they were when it connected; none where unknown.

    Of a peer that is in more than 256 they are unknown: Python reads no longer option.
    """
    handle: Any = transport.getHandle() if ISystemHandle.providedBy(transport) else None
    if handle is None or handle.family != socket.AF_UNIX:
        return frozenset()
    try:
        data = handle.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, LONGEST_OPTION)
    except OSError:
        return frozenset()
    return frozenset(struct.unpack(f"{len(data) // 4}I", data))

"""The least that Twisted can do for a call: LineReceiver, JSON in, JSON out, nothing else.

    python -m benchmarks.bare.lines PATH [--at-once]

It answers everything as ``rkllm.is_running`` is answered. With ``--at-once`` it writes without waiting for the
reactor's next turn. Prints a line when it listens.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import msgspec
from twisted.internet.protocol import Factory
from twisted.internet.unix import Server
from twisted.protocols.basic import LineReceiver


class Lines(LineReceiver):
    """One connection."""

    delimiter = b"\n"

    def lineReceived(self, line: bytes) -> None:
        """Answer."""
        id = msgspec.json.decode(line)["id"]
        result = {"is_running": False, "status_code": 0}
        self.sendLine(msgspec.json.encode({"jsonrpc": "2.0", "id": id, "result": result}))


class AtOnce(Server):
    """A transport that does not wait for the reactor's next turn. Right only for short answers, one at a time."""

    def write(self, data: bytes) -> None:
        """Write, or what the kernel does not take later."""
        sent = self.writeSomeData(data)
        if sent != len(data):
            super().write(data[sent:] if isinstance(sent, int) else data)

    def writeSequence(self, parts: Iterable[bytes]) -> None:
        """As `write`."""
        self.write(b"".join(parts))


def main() -> None:
    """Serve until somebody ends the process."""
    from twisted.internet import reactor

    anyReactor: Any = reactor
    port = anyReactor.listenUNIX(sys.argv[1], Factory.forProtocol(Lines), backlog=1024)
    if "--at-once" in sys.argv:
        port.transport = AtOnce
    print("listening", flush=True)
    anyReactor.run()


if __name__ == "__main__":
    main()

"""A plain client, for what has no hurry: loading a model, filling a queue."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any


class Client:
    """A connection.

    Args:
        path: The socket.
        patience: Seconds in which what it waits for has to come; None for as long as it takes.
    """

    def __init__(self, path: Path, patience: float | None = 60) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(patience)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def send(self, lines: str) -> None:
        """Send requests as they are, a line each."""
        self._socket.sendall(f"{lines}\n".encode())

    def line(self) -> Any:
        """The next line, parsed.

        Raises:
            RuntimeError: The server has closed the connection.
        """
        return json.loads(self.rawLine())

    def rawLine(self) -> bytes:
        """The next line as it came.

        Raises:
            RuntimeError: As of `line`.
        """
        line = self._lines.readline()
        if not line:
            raise RuntimeError("the server has closed the connection")
        return line

    def ask(self, method: str, *params: object) -> dict[str, Any]:
        """Call a method; gives the response."""
        self.send(json.dumps({"jsonrpc": "2.0", "id": "ask", "method": method, "params": params}))
        while (line := self.line())["id"] != "ask":
            pass
        response: dict[str, Any] = line
        return response

    def close(self) -> None:
        """Close it."""
        self._lines.close()
        self._socket.close()

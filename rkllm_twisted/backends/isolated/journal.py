"""What must be done again to bring a new child to where the old one was."""

from __future__ import annotations

from typing import Any

Entry = tuple[str, tuple[Any, ...]]
"""The name of a call, and its arguments."""

ONCE = ("init", "setChatTemplate", "setFunctionTools", "loadPromptCache", "setCrossAttnParams")
"""Of these the last one counts."""


class Journal:
    """The calls that have succeeded and last: those that a model keeps until it is destroyed.

    Not among them are runs and the KV cache: what was said is gone with the child.
    """

    def __init__(self) -> None:
        self._entries: list[Entry] = []

    def done(self, name: str, arguments: tuple[Any, ...]) -> None:
        """A call has succeeded."""
        if name == "releasePromptCache":
            self._forget("loadPromptCache")
        elif name in ONCE:
            self._forget(name)
            self._entries.append((name, arguments))
        elif name == "loadLora":
            self._entries.append((name, arguments))

    def entries(self) -> list[Entry]:
        """What to call, in order."""
        return list(self._entries)

    def modelPath(self) -> str:
        """Where the model is."""
        return next(str(arguments[0].model_path) for name, arguments in self._entries if name == "init")

    def around(self) -> int:
        """The bytes of the template and the tools, which the model puts around a prompt."""
        told = [arguments for name, arguments in self._entries if name in ("setChatTemplate", "setFunctionTools")]
        return sum(len(text.encode()) for arguments in told for text in arguments)

    def _forget(self, name: str) -> None:
        self._entries = [entry for entry in self._entries if entry[0] != name]

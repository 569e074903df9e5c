"""The stand-in of librkllmrt for the tests of the NPU backend: compiled once in a process, scripted and overheard."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.native.build import FAMILIES, buildStandin, compiler

needsCompiler = pytest.mark.skipif(
    shutil.which(compiler()[0]) is None, reason="the stand-in of the vendor's library is written in C; no compiler here"
)
everyFamily = pytest.mark.parametrize("key", FAMILIES)
_built = tempfile.TemporaryDirectory(prefix="rkllm-standins-")


@functools.cache
def standin(family: str) -> str:
    """The path of the library of a family."""
    return str(buildStandin(family, Path(_built.name) / family))


class Standin:
    """What the stand-ins of this process are told, and what they say.

    Attributes:
        model: A model file.
    """

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._log = directory / "standin.log"
        self._control = directory / "standin.control"
        self._directory = directory
        self.model = self.writeModel("model.rkllm")
        monkeypatch.setenv("RKLLM_STANDIN_LOG", str(self._log))
        monkeypatch.setenv("RKLLM_STANDIN_CONTROL", str(self._control))

    def writeModel(self, name: str, facts: str = "", words: Iterable[str] = ()) -> str:
        """A model file with the facts that its first line may name, and the texts of tokens; returns its path."""
        path = self._directory / name
        path.write_text("".join(f"{line}\n" for line in (f"RKLLM-STANDIN {facts}", *words)))
        return str(path)

    def script(self, text: str) -> None:
        """How it behaves from the next call on; README.md of tests/native has the keys."""
        self._control.write_text(text)

    def events(self, kind: str, **fields: object) -> list[dict[str, object]]:
        """What happened, in order."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        events = [json.loads(line) for line in lines]
        return [event for event in events if {"event": kind, **fields}.items() <= event.items()]

    def calls(self) -> list[object]:
        """The names of the functions that were called."""
        return [event["function"] for event in self.events("call")]


def overheard(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standin]:
    """For fixtures: a `Standin`, and a failure if it has seen something that a caller must not do."""
    standin = Standin(directory, monkeypatch)
    yield standin
    assert standin.events("violation") == []

"""Where machines are made up, and whether a library is found on them."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from rkllm_twisted.backends.rkllm.searching import NoLibrary
from rkllm_twisted.cli.doctor import library, serving
from rkllm_twisted.cli.doctor.findings import Finding, State
from tests.cli.doctor.examining import LIBRARY, THE_LIBRARY


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "machine").mkdir()
    return tmp_path / "machine"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a library, and it opens."""
    monkeypatch.setattr(serving, "findLibrary", lambda option, environ: option or LIBRARY)
    monkeypatch.setattr(serving, "detect", lambda path: structs.replace(THE_LIBRARY, path=path))
    monkeypatch.setattr(library, "opens", lambda path: Finding("opening it", State.OK, "it opens"))


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no library."""

    def find(option: str | None, environ: object) -> str:
        raise NoLibrary("librkllmrt.so was not found")

    monkeypatch.setattr(serving, "findLibrary", find)

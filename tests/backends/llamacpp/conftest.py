"""What the tests of this backend share: tiny models and a runtime."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from rkllm_twisted.backends.llamacpp import makeBackend
from rkllm_twisted.interfaces import IRuntime, IRuntimeModel
from tests.tiny_model import writeModel


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that writes a tiny model, or gives the one that it has written of the same arguments."""
    directory = tmp_path_factory.mktemp("models")
    written: dict[str, Path] = {}

    def model(**arguments: Any) -> Path:
        key = repr(sorted(arguments.items()))
        if key not in written:
            written[key] = writeModel(directory / f"{len(written)}.gguf", **arguments)
        return written[key]

    return model


@pytest.fixture(scope="session")
def runtime() -> IRuntime:
    return makeBackend({"threads": "1"})


@pytest.fixture
def cpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A function that sets how many CPUs this process may use."""
    return lambda count: monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(count)))


@pytest.fixture
def load(runtime: IRuntime, models: Callable[..., Path]) -> Iterator[Callable[..., IRuntimeModel]]:
    """A function that loads a tiny model: ``load(path or the arguments of writeModel, **fields of RKLLMParam)``."""
    loaded: list[IRuntimeModel] = []

    def load(path: Path | dict[str, Any], runtime: IRuntime = runtime, **fields: Any) -> IRuntimeModel:
        path = models(**path) if isinstance(path, dict) else path
        model = runtime.init(structs.replace(runtime.createDefaultParam(), model_path=str(path), **fields))
        loaded.append(model)
        return model

    yield load
    for model in loaded:
        model.destroy()

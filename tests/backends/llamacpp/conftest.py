"""What the tests of this backend share: tiny models and a runtime."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from rkllm_twisted.backends.llamacpp import makeBackend
from rkllm_twisted.backends.llamacpp.models import PACKAGED
from rkllm_twisted.backends.llamacpp.runtime import LlamaRuntime
from rkllm_twisted.interfaces import IRuntime, IRuntimeModel
from rkllm_twisted.values import RKLLMParam
from tests.backends.llamacpp.asking import tokenInput
from tests.backends.llamacpp.caching import PROMPT, saving
from tests.backends.llamacpp.direct import Direct, weightsOf
from tests.backends.llamacpp.running import RecordedFunctions, recordedLibrary
from tests.backends.runs import Run
from tests.tiny_model import writeAdapter, writeModel

RANDOM, CYCLE = {"style": "random"}, {"style": "cycle"}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that writes a tiny model, or gives the one that it has written of the same arguments."""
    return _writtenOnce(writeModel, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that does the same with LoRA adapters for tiny models."""
    return _writtenOnce(writeAdapter, tmp_path_factory.mktemp("adapters"))


def _writtenOnce(write: Callable[..., Path], directory: Path) -> Callable[..., Path]:
    written: dict[str, Path] = {}

    def path(**arguments: Any) -> Path:
        key = repr(sorted(arguments.items()))
        if key not in written:
            written[key] = write(directory / f"{len(written)}.gguf", **arguments)
        return written[key]

    return path


@pytest.fixture(scope="session")
def runtime() -> IRuntime:
    return makeBackend({"threads": "1"})


@pytest.fixture
def param(runtime: IRuntime, models: Callable[..., Path]) -> RKLLMParam:
    """Parameters that load a tiny model."""
    return structs.replace(runtime.createDefaultParam(), model_path=str(models(**CYCLE)))


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


@pytest.fixture(scope="session")
def packaged() -> str:
    """The short name of the packaged model; what needs it is skipped where it is not installed."""
    if PACKAGED["smollm2"].path() is None:
        pytest.skip(f"the model is not installed: {PACKAGED['smollm2'].install}")
    return "smollm2"


@pytest.fixture
def loadPackaged(load: Callable[..., IRuntimeModel], packaged: str) -> Callable[..., IRuntimeModel]:
    """A function that loads the packaged model: ``loadPackaged(**fields of RKLLMParam)``."""
    return lambda **fields: load(Path(packaged), **fields)


@pytest.fixture
def recorded(load: Callable[..., IRuntimeModel]) -> Callable[..., tuple[IRuntimeModel, RecordedFunctions]]:
    """A function that loads a tiny model as `load` does, and gives with it the C functions as it calls them from then
    on. ``answers`` are those of `RecordedFunctions`.
    """

    def recorded(
        path: dict[str, Any] = RANDOM, answers: Mapping[str, Callable[..., Any]] = MappingProxyType({}), **fields: Any
    ) -> tuple[IRuntimeModel, RecordedFunctions]:
        library = recordedLibrary()
        library.c.answers.update(answers)
        model = load(path, LlamaRuntime(threads=1, openLibrary=lambda: library), **fields)
        library.c.calls.clear()
        return model, library.c

    return recorded


@pytest.fixture
def direct(models: Callable[..., Path]) -> Iterator[Direct]:
    """llama.cpp driven by hand, with the random model."""
    with Direct(models(**RANDOM)) as direct:
        yield direct


@pytest.fixture
def embeddings(models: Callable[..., Path]) -> np.ndarray:
    """What the random model itself takes for each token."""
    return weightsOf(models(**RANDOM), "token_embd.weight")


@pytest.fixture
def cachePath(tmp_path: Path) -> Path:
    """Where a prompt cache may be saved."""
    return tmp_path / "prompt.cache"


@pytest.fixture
def saved(load: Callable[..., IRuntimeModel], cachePath: Path) -> Path:
    """A prompt cache of `PROMPT`, saved by the random model."""
    Run(load(RANDOM), tokenInput(PROMPT), saving(cachePath))
    return cachePath

"""What the tests of this backend share: the stand-in of the vendor's library, and models of it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from rkllm_twisted.backends.rkllm import makeBackend
from rkllm_twisted.backends.rkllm.runtime import RkllmRuntime
from rkllm_twisted.interfaces import IRuntimeModel
from tests.standins import Standin, overheard, standin


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standin]:
    """The stand-in, which fails the test if it is given something that it must not."""
    yield from overheard(tmp_path, monkeypatch)


@pytest.fixture
def runtime() -> Callable[[str], RkllmRuntime]:
    """A function that makes the backend for a family."""
    return lambda key: makeBackend({"library": standin(key)})


@pytest.fixture
def load(library: Standin, runtime: Callable[[str], RkllmRuntime]) -> Iterator[Callable[..., IRuntimeModel]]:
    """A function that loads a model: ``load(key, facts="embd=4", extend={…}, **fields of RKLLMParam)``."""
    loaded: list[IRuntimeModel] = []

    def load(key: str, facts: str = "", extend: dict[str, Any] | None = None, **fields: Any) -> IRuntimeModel:
        param = runtime(key).createDefaultParam()
        extended = structs.replace(param.extend_param, **(extend or {}))
        path = library.writeModel(f"{len(loaded)}.rkllm", facts)
        fields = {"model_path": path, "extend_param": extended, **fields}
        loaded.append(runtime(key).init(structs.replace(param, **fields)))
        return loaded[-1]

    yield load
    for model in loaded:
        model.destroy()


@pytest.fixture
def compileLibrary(tmp_path: Path) -> Callable[..., str]:
    """A function that makes a shared object with the given exports, texts and C code."""
    count = iter(range(100))

    def compileLibrary(exports: Iterable[str], *versions: str, code: str = "") -> str:
        path = tmp_path / f"librkllmrt-{next(count)}.so"
        texts = [f"RKLLM SDK (version: {version} | target: Linux | build: x)" for version in versions]
        source = "".join(f"int {name}(void) {{ return 0; }}\n" for name in exports) + code
        source += "".join(f'const char *text{index} = "{text}";\n' for index, text in enumerate(texts))
        command = ["cc", "-shared", "-fPIC", "-Wl,-z,now", "-x", "c", "-", "-o", str(path)]
        subprocess.run(command, input=source, text=True, check=True)
        return str(path)

    return compileLibrary

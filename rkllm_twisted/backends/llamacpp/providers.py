"""Which installed package brings llama.cpp: found, never imported.

Two packages do. Both are pinned to the exact release whose header `declarations` follows, because llama.cpp changes the
layout of its parameter structs about once a month (between May and October 2026 ``llama_context_params`` changed four
times, mostly in the middle). The extension module of the xllamacpp wheel has llama.cpp linked in and exports the whole
of ``llama.h``; that is no promise of its authors, so `library` checks it again when it opens the file.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

CPU_FLAGS = frozenset({"avx2", "fma", "f16c", "bmi2"})
"""What the x86-64 wheel of xllamacpp is compiled for; without them its first computation is a SIGILL (measured)."""

INSTALL = 'pip install "rkllm-twisted[cpu]"'


class NoProvider(Exception):
    """No installed package brings a llama.cpp that can be used here. The message says what to do."""


@dataclass(frozen=True)
class Provider:
    """A package with llama.cpp inside.

    Attributes:
        distribution: Its name on PyPI.
        version: The only release whose layouts are declared.
        package: Its name in Python.
        library: The shared object, relative to the package's directory.
        abi: The cffi module generated for its layouts.
        needsFlags: The CPU flags without which an x86-64 machine cannot run it.
    """

    distribution: str
    version: str
    package: str
    library: str
    abi: str
    needsFlags: frozenset[str] = frozenset()

    def path(self) -> Path | None:
        """Where its shared object is, or None if the package is not installed. Does not import the package."""
        spec = find_spec(self.package)
        return Path(spec.origin).parent / self.library if spec and spec.origin else None

    def unusable(self, flags: Callable[[], frozenset[str]]) -> str | None:
        """Why it cannot be used, or None."""
        path = self.path()
        if path is None:
            return "is not installed"
        try:
            found = importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            found = "of unknown version"
        if found != self.version:
            return f"{found} is installed, only {self.version} will do: pip install {self.distribution}=={self.version}"
        if not path.exists():
            return f"{self.version} has no {self.library}"
        if missing := self.needsFlags - flags():
            return f"needs a CPU with {', '.join(sorted(missing))}"
        return None


XLLAMACPP = Provider(
    distribution="xllamacpp",
    version="2026.10.11549",
    package="xllamacpp",
    library="xllamacpp.abi3.so",
    abi="_xllamacpp_abi",
    needsFlags=CPU_FLAGS,
)
LLAMA_CPP_PYTHON = Provider(
    distribution="llama-cpp-python",
    version="0.3.36",
    package="llama_cpp",
    library="lib/libllama.so",
    abi="_llama_cpp_python_abi",
)
"""Compiled on the machine: slow to install, but for any CPU, and faster on one that has more than AVX2 (measured)."""

PROVIDERS = (XLLAMACPP, LLAMA_CPP_PYTHON)
"""The first that can be used is."""


def cpuFlags(cpuinfo: Path = Path("/proc/cpuinfo"), machine: str | None = None) -> frozenset[str]:
    """The flags of this machine's CPU. Not on x86-64, or where they cannot be read: every flag that is asked for."""
    if (machine or platform.machine()) not in ("x86_64", "AMD64"):
        return CPU_FLAGS
    try:
        lines = cpuinfo.read_text("ascii", "replace").splitlines()
    except OSError:
        return CPU_FLAGS
    return frozenset(next((line for line in lines if line.startswith("flags")), "").partition(":")[2].split())


def findProvider(
    providers: Sequence[Provider] = PROVIDERS, flags: Callable[[], frozenset[str]] = cpuFlags
) -> tuple[Provider, Path]:
    """The provider to use and the path of its shared object.

    Raises:
        NoProvider: None can be used.
    """
    reasons = []
    for provider in providers:
        reason, path = provider.unusable(flags), provider.path()
        if reason is None and path is not None:
            return provider, path
        reasons.append(f"{provider.distribution} {reason}")
    raise NoProvider(f"no llama.cpp here ({'; '.join(reasons)}): {INSTALL}")

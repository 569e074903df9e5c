"""Builds the stand-in of librkllmrt, and the C program that drives it, for a family of releases.

With ``STANDIN_SANITIZE`` in the environment everything is built under AddressSanitizer and UBSan; a Python that loads
such a library needs ``libasan.so`` in ``LD_PRELOAD``.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
FAMILIES = ("1.1", "1.2.0", "1.2.1b1", "1.2.1", "1.3", "1.3.1")
SOURCES = ("layout", "text", "script", "report", "faults", "model", "checks", "cache", "prompt", "prefill", "answer")
SOURCES += ("names", "speak", "deliver", "run", "calls", "functions")
COMMON = ("-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-g", "-O1")
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer")


def compiler() -> list[str]:
    """The compiler's command: ``CC`` of the environment, which may hold options too, or gcc."""
    return shlex.split(os.environ.get("CC", "gcc"))


def familyMacro(family: str) -> str:
    """The option that chooses a family, such as ``-DFAMILY_1_3``."""
    if family not in FAMILIES:
        raise ValueError(f"{family}: unknown family, there are {', '.join(FAMILIES)}")
    return f"-DFAMILY_{family.replace('.', '_')}"


def buildStandin(family: str, directory: Path, *flags: str) -> Path:
    """Compile the library of a family.

    Args:
        family: One of `FAMILIES`.
        directory: Where to; made if missing.
        flags: More options for the compiler, such as ``*SANITIZE`` or ``-DSTANDIN_VERSION="1.2.1"``.

    Returns:
        The path of ``librkllmrt.so`` in the directory.

    Raises:
        RuntimeError: The compiler failed; with what it said.
    """
    library = directory / "librkllmrt.so"
    shared = ("-fPIC", "-fvisibility=hidden", "-shared", "-Wl,-soname,librkllmrt.so", "-Wl,-z,now")
    sources = [HERE / f"{name}.c" for name in SOURCES]
    compileTo(library, sources, familyMacro(family), *shared, *flags, libraries=("-lpthread", "-lm"))
    return library


def buildDriver(family: str, library: Path, *flags: str) -> Path:
    """Compile the C program that drives the library; it is linked with it, and lies beside it."""
    driver = library.with_name("driver")
    compileTo(driver, [HERE / "driver.c"], familyMacro(family), *flags, libraries=(str(library), "-lpthread", "-lm"))
    return driver


def compileTo(output: Path, sources: list[Path], *flags: str, libraries: tuple[str, ...] = ()) -> None:
    """Call the compiler."""
    output.parent.mkdir(parents=True, exist_ok=True)
    rpath = "-Wl,-rpath,$ORIGIN"
    watched = SANITIZE if os.environ.get("STANDIN_SANITIZE") else ()
    command = [*compiler(), *COMMON, *watched, *flags, *map(str, sources), "-o", str(output), rpath, *libraries]
    # A sanitizer that is preloaded into the tests' Python has no business in the compiler.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}\n{done.stderr}")

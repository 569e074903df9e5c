"""The vendor's ``librkllmrt.so`` on Rockchip's NPU, whichever release the board carries.

The library is called through cffi with declarations of our own; nothing is compiled. Importing this package is light:
cffi and the library wait for a board that has one.

The rooms, from the outside in::

    runtime.py       IRuntime: what a model is loaded with
    model.py         IRuntimeModel: its runs
    functions.py     IRuntimeModel: everything else that it can do
    running.py       one run, from the library's callbacks to its last result
    inputs.py        the input of a run, checked and as the library wants it
    checking.py      what else is refused before the library sees it; lacking.py, cpus.py: parts of that
    loaded.py        a model in the library's memory
    writing.py       values -> C's structs; sampling.py: a part of that
    reading.py       C's structs -> values; pieces.py, figures.py: what is made of them
    interrupting.py  the thread that aborts
    saving.py        prompt cache files on their way to their place
    library.py       the C functions, and the one callback
    opening.py       the libraries of this process
    detection.py     which family a file is of; elf.py, releases.py and probing.py are its sources
    searching.py     where the file is
    families/        what the functions and structs look like, release by release
"""

from __future__ import annotations

import os

from rkllm_twisted.backends.rkllm.searching import NoLibrary, findLibrary
from rkllm_twisted.interfaces import IRuntime

OPTIONS = ("library", "abi")


def unusable() -> str | None:
    """Why this backend cannot run here and what to do about it; None if it can. Opens no library, but reads it."""
    try:
        path = findLibrary(None, os.environ)
    except NoLibrary as reason:
        return str(reason)
    from rkllm_twisted.backends.rkllm.detection import detect

    problem = detect(path, probe=False).problem or _foreign(path)
    return None if problem is None else f"{path}: {problem}"


def locate(options: dict[str, str]) -> dict[str, str]:
    """The options of `makeBackend` with the absolute path of the library that it takes.

    Raises:
        NoLibrary: There is none.
    """
    return {**options, "library": findLibrary(options.get("library"), os.environ)}


def makeBackend(options: dict[str, str]) -> IRuntime:
    """The runtime for ``rkllm:key=value:…``. Reads the library's file (7 MB), opens nothing.

    Args:
        options: ``library``, the path of ``librkllmrt.so`` (default: see `findLibrary`); ``abi``, the key of its family
            where the file does not tell, such as ``1.3``.

    Raises:
        ValueError: An option is unknown; there is no library; its family is not known, or not the one said; or it is
            for another kind of machine.
    """
    for name in options:
        if name not in OPTIONS:
            raise ValueError(f"rkllm: unknown option {name!r}, expected {' or '.join(OPTIONS)}")
    path, abi = findLibrary(options.get("library"), os.environ), options.get("abi")

    from rkllm_twisted.backends.rkllm.detection import choose, detect
    from rkllm_twisted.backends.rkllm.opening import openOnce
    from rkllm_twisted.backends.rkllm.runtime import RkllmRuntime

    family = choose(detect(path, probe=False), abi)
    if (problem := _foreign(path)) is not None:
        raise ValueError(f"{path}: {problem}")
    return RkllmRuntime(family, lambda: openOnce(path, family, abi))


def _foreign(path: str) -> str | None:
    """Why a library cannot be opened by this Python; the loader would say that there is no such file."""
    from rkllm_twisted.backends.rkllm.elf import machineOf, thisMachine

    machine = machineOf(path)
    return None if machine == thisMachine() else f"it is for {machine}, and this Python is for {thisMachine()}"

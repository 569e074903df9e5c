"""Checks of librkllmrt: is it there, which family is it, does it open."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from rkllm_twisted.backends.rkllm.elf import machineOf, thisMachine
from rkllm_twisted.backends.rkllm.families import FAMILIES
from rkllm_twisted.cli.doctor.findings import Finding, State

if TYPE_CHECKING:
    from rkllm_twisted.backends.rkllm import detection

PATIENCE = 30.0
"""Seconds that a library has to be opened."""
GET_IT = "docs/howto/board.md says where it comes from"
OPEN = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"

Detect = Callable[[str], "detection.Finding"]


def absent(reason: str, isNeeded: bool) -> Finding:
    """No library was found.

    Args:
        reason: What the search says.
        isNeeded: Whether there is an NPU, which then lacks it, or somebody has named a library.
    """
    return Finding("library", State.PROBLEM if isNeeded else State.ABSENT, reason, GET_IT if isNeeded else "")


def family(path: str, detect: Detect) -> Finding:
    """Whether the release of the library can be told, without which it must not be called."""
    detected = detect(path)
    if detected.family is None:
        return Finding(
            "library",
            State.PROBLEM,
            f"{path}: {detected.problem}",
            f"look at what speaks for which: rkllm detect {path}",
        )
    by = ", ".join(evidence.source for evidence in detected.evidence if len(evidence.families) < len(FAMILIES))
    version = detected.version or "of unknown version"
    return Finding("library", State.OK, f"{path}: RKLLM {version}, family {detected.family} (by {by})")


def opens(path: str, patience: float = PATIENCE) -> Finding:
    """Whether the library and what it needs can be opened here; tried in a child process, which it may take down.

    Args:
        path: The library.
        patience: Seconds that this may take.
    """
    try:
        if machineOf(path) != thisMachine():  # the loader says that there is no such file
            return _closed("it is for another kind of CPU", "take the one for this machine")
        child = subprocess.run(
            [sys.executable, "-c", OPEN, os.path.abspath(path)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=patience,
        )
    except subprocess.TimeoutExpired:
        return _closed(f"opening it did not end within {patience:.0f} s")
    except OSError as error:
        return _closed(f"it could not be tried: {error.strerror}: {error.filename}")
    if child.returncode < 0:
        number = -child.returncode
        return _closed(f"opening it ended the process by signal {number} ({signal.strsignal(number)})")
    if child.returncode:
        *_, last = ["it ended the process", *child.stderr.splitlines()]
        return _closed(last.removeprefix("OSError: "))
    return Finding("opening it", State.OK, "the library and what it needs can be opened")


def _closed(reason: str, todo: str = "") -> Finding:
    # Needed, by a strings dump of 1.2.1b1: libgomp.so.1, libstdc++, glibc 2.29.
    if missing := re.match(r"(lib[\w.+-]+): cannot open shared object file", reason):
        todo = f"install the package that has {missing[1]} (libgomp1 has libgomp.so.1)"
    elif "GLIBC" in reason:
        todo = "use a system with a newer C library; 1.2.1b1 needs glibc 2.29"
    return Finding("opening it", State.PROBLEM, reason, todo)

"""The libraries of this process, each opened once, and the last look at one before its first call."""

from __future__ import annotations

import os
import threading

from rkllm_twisted.backends.rkllm.detection import Undecided, choose, detect
from rkllm_twisted.backends.rkllm.families import Family
from rkllm_twisted.backends.rkllm.library import Library, LibraryUnusable

_opened: dict[tuple[str, str], Library] = {}
_opening = threading.Lock()


def openOnce(path: str, family: Family, abi: str | None) -> Library:
    """The library of a path, opened at the first call. May be called from any thread, and blocks.

    Args:
        path: The file.
        family: What it was found to be.
        abi: What it was said to be.

    Raises:
        LibraryUnusable: It cannot be opened, or is not what it was found to be; asked again at the next call.
    """
    key = (os.path.realpath(path), family.key)
    with _opening:
        if key not in _opened:
            _lookAgain(path, family, abi)
            _opened[key] = Library(path, family)
        return _opened[key]


def _lookAgain(path: str, family: Family, abi: str | None) -> None:
    """Look at its default parameters too, in another process; and at the file, which may have been replaced since."""
    try:
        now = choose(detect(path), abi)
    except Undecided as reason:
        # A client gets this: the path is the operator's.
        raise LibraryUnusable(str(reason).replace(path, os.path.basename(path))) from None
    if now.key != family.key:
        raise LibraryUnusable(
            f"the library was replaced: it was of family {family.key} when the daemon was started and is now of "
            f"{now.key}; start the daemon again"
        )

"""The last look at a library before its first call."""

from __future__ import annotations

from rkllm_twisted.backends.rkllm.detection import Undecided, choose, detect
from rkllm_twisted.backends.rkllm.families import Family
from rkllm_twisted.backends.rkllm.library import Library, LibraryUnusable, theLibrary


def openDetected(path: str, family: Family, abi: str | None) -> Library:
    """Open a library, after a look at its default parameters in another process. Blocks.

    The file is read once more, too: it may have been replaced since the daemon was started.

    Args:
        path: The file.
        family: What it was found to be.
        abi: What it was said to be.

    Raises:
        LibraryUnusable: It cannot be opened, or it is of another family than it was.
    """
    try:
        now = choose(detect(path), abi)
    except Undecided as reason:
        raise LibraryUnusable(str(reason)) from None
    if now.key != family.key:
        raise LibraryUnusable(
            f"the library was replaced: it was of family {family.key} when the daemon was started and is now of "
            f"{now.key}; start the daemon again"
        )
    return theLibrary(path, family)

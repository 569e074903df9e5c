"""Files on their way to their place, and what is left of those whose writer was killed.

A file that must be whole is written under another name and then moved. A writer that is killed in between leaves what
it had written, which may be large. So a writer holds a lock on it, and the next one that writes there removes what
nobody holds.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress

PREFIX = ".prompt-cache-"
"""Of the names of what is unfinished."""
_FILE = "saved"
"""The name of the file in the directory of its own."""
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Unfinished:
    """A directory for one file, and for this user alone.

    Args:
        directory: In which it is made.

    Attributes:
        path: Of the file, which is not there yet.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, directory: str) -> None:
        sweep(directory)
        self._directory = tempfile.mkdtemp(prefix=PREFIX, dir=directory)
        self._descriptor = os.open(self._directory, _OPEN)
        with suppress(OSError):  # a file system without locks: it may be swept away then, which is an error and no loss
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.path = os.path.join(self._directory, _FILE)

    def close(self) -> None:
        """Remove it, with what was not moved to its place."""
        shutil.rmtree(self._directory, ignore_errors=True)
        os.close(self._descriptor)


def sweep(directory: str) -> None:
    """Remove what writers that are no more have left in a directory."""
    names: list[str] = []
    with suppress(OSError):  # a directory that may be written to and not read
        names = os.listdir(directory)
    for name in names:
        if name.startswith(PREFIX):
            with suppress(OSError):  # somebody else's, or held, or just gone
                _removeUnheld(os.path.join(directory, name))


def _removeUnheld(path: str) -> None:
    descriptor = os.open(path, _OPEN | os.O_DIRECTORY)
    try:
        if os.fstat(descriptor).st_uid == os.geteuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                os.unlink(_FILE, dir_fd=descriptor)
            os.rmdir(path)
    finally:
        os.close(descriptor)

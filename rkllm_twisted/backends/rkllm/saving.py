"""Prompt cache files on their way from the library to their place.

The library writes into a directory that only this user can enter, and what it wrote is moved to its place when the run
has ended well: nobody sees half a file, and a run that fails or is aborted leaves what was there before.

The format is the vendor's own and not documented, so nothing in a file tells that it is a prompt cache. What is saved
here bears a mark, an extended attribute, which outlives the daemon; a file without it is never written over. On a file
system without such attributes a saved file has to be removed before it can be saved again.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from rkllm_twisted.backends.unfinished import Unfinished
from rkllm_twisted.errors import RuntimeCallFailed

MARK = "user.rkllm_twisted.prompt_cache"
"""The name of the extended attribute."""
ROOM = 1 << 16
"""Bytes behind the end of a file that need a new block on any file system."""


class PromptCacheFile:
    """A prompt cache that a run is to save.

    Args:
        target: Where it belongs. Its directory must be there.

    Attributes:
        path: Where the library is to write it.

    Raises:
        RuntimeCallFailed: It could not be put there.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        _refuseWhatIsNotOurs(target)
        try:
            self._unfinished = Unfinished(os.path.dirname(target) or os.curdir)
        except OSError as error:
            raise failed(os.strerror(error.errno or 0).lower()) from None
        self.path = self._unfinished.path

    def putInPlace(self) -> None:
        """Move what the library wrote to where it belongs, readable by its owner only.

        Raises:
            RuntimeCallFailed: It wrote nothing, or may have lacked the room for all, or there is something else now.
        """
        if not os.path.isfile(self.path) or not os.path.getsize(self.path):
            raise failed(
                "the library wrote nothing, its log says why; known reasons: the kind of model (RWKV, Qwen3.5 on "
                "1.3.0), or a run that this release had to be stopped in, at its own max_new_tokens"
            )
        _refuseWhatIsNotOurs(self._target)
        try:
            _checkRoom(self.path)
            _finish(self.path)
            os.replace(self.path, self._target)
        except OSError as error:
            raise failed(os.strerror(error.errno or 0).lower()) from None

    def close(self) -> None:
        """Remove what was not put in place."""
        self._unfinished.close()


def failed(reason: str) -> RuntimeCallFailed:
    """The error for a prompt cache that cannot be saved."""
    return RuntimeCallFailed(f"the prompt cache cannot be saved: {reason}", function="rkllm_run", status=-1)


def _checkRoom(path: str) -> None:
    """Fail where a file could be no longer than it is: the library does not say whether all of it could be written."""
    with open(path, "r+b", buffering=0) as file:
        length = file.seek(0, os.SEEK_END)
        written = file.write(bytes(ROOM))
        file.truncate(length)
    if written != ROOM:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _finish(path: str) -> None:
    os.chmod(path, 0o600)
    with suppress(OSError):  # no such attributes here
        os.setxattr(path, MARK, b"1")
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _refuseWhatIsNotOurs(path: str) -> None:
    if os.path.lexists(path) and not _isOurs(path):
        raise failed("what is there already bears no mark of a prompt cache that was saved here, and stays")


def _isOurs(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode) and bool(os.getxattr(path, MARK, follow_symlinks=False))
    except OSError:
        return False

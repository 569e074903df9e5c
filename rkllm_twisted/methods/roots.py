"""Which files a client may name: those below the directories that the operator allows (``--model-root``).

A path that has been checked may be another file by the time that it is opened. So it is opened here, step by step below
the allowed directory and never through a symbolic link, and what the runtime gets is the name that the kernel gives to
the open file (proc(5), ``/proc/PID/fd``): whatever is moved about afterwards, that is the file that was checked.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from twisted.python.failure import Failure

from rkllm_twisted.errors import NotPermitted, RKLLMError

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LINK = ": a symbolic link is on the way"
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class OpenedFile:
    """A file that a client has named.

    Args:
        name: As the client named it.
        descriptor: Of the file, or of its directory; None where everything is allowed and nothing was opened.
        inside: The name inside of that directory; "" for the file itself.

    Attributes:
        path: What to give to the runtime.
    """

    def __init__(self, name: str, descriptor: int | None = None, inside: str = "") -> None:
        self._name = name
        self._descriptor = descriptor
        self.path = (
            name if descriptor is None else os.path.join(f"/proc/{os.getpid()}/fd/{descriptor}", inside).rstrip("/")
        )

    def close(self) -> None:
        """The runtime does not need it any more. Calling it again does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def failed(self, failure: Failure) -> Failure:
        """Close it, since what it was opened for has failed; in an error it gets back the name that the client gave."""
        self.close()
        if isinstance(failure.value, RKLLMError):
            self.named(failure.value)
        return failure

    def named(self, error: RKLLMError) -> RKLLMError:
        """An error of the runtime, in which the file has the name that the client gave it."""
        error.detail = error.detail.replace(self.path, self._name)
        error.data = {
            key: value.replace(self.path, self._name) if isinstance(value, str) else value
            for key, value in error.data.items()
        }
        return error


class Roots:
    """The directories below which files may be opened.

    Args:
        directories: Their paths; none allows everything.

    Raises:
        OSError: One of them is no directory.
    """

    def __init__(self, directories: Sequence[str] = ()) -> None:
        self._roots: list[tuple[set[str], int]] = []
        for path in directories:
            # Clients may know it by its own name or by the one that the operator uses, which may be a symbolic link.
            names = {os.path.realpath(path), os.path.abspath(path)}
            self._roots.append((names, os.open(os.path.realpath(path), _DIRECTORY)))

    def file(self, path: str, where: str) -> OpenedFile:
        """Open a file for reading.

        Args:
            path: As the client named it; one that is relative may be below any of the directories.
            where: The JSON path of its name.

        Returns:
            The file. A name without a slash that is below none of them, and no file in the daemon's own directory
            either, is handed on as it is, since it may be a short name of the backend's own.

        Raises:
            NotPermitted: It is elsewhere, or a symbolic link is on the way.
            FileNotFoundError: It would be allowed and is not there.
            OSError: It cannot be opened.
        """
        if not self._roots:
            return OpenedFile(path)
        for root, parts in self._candidates(path, where):
            try:
                return OpenedFile(path, _opened(root, parts, _FILE, where))
            except FileNotFoundError:
                continue
        if "/" not in path and not os.path.lexists(path):
            return OpenedFile(path)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def place(self, path: str, where: str) -> OpenedFile:
        """Open the directory of a file that is to be written.

        Raises:
            NotPermitted, OSError: As `file`.
        """
        if not self._roots:
            return OpenedFile(path)
        for root, parts in self._candidates(path, where):
            try:
                directory = _opened(root, parts[:-1], _DIRECTORY, where)
            except FileNotFoundError:
                continue
            if _isLink(parts[-1], directory):  # a runtime may write through it
                os.close(directory)
                raise _refusal(where, _LINK)
            return OpenedFile(path, directory, parts[-1])
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def _candidates(self, path: str, where: str) -> list[tuple[int, list[str]]]:
        """The directories that a path may be below, and the parts of it that lead on from there."""
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if not parts or ".." in parts or "\0" in path:
            raise _refusal(where)
        if not path.startswith("/"):
            return [(descriptor, parts) for _, descriptor in self._roots]
        found = []
        for names, descriptor in self._roots:
            for name in names:
                above = [part for part in name.split("/") if part]
                if parts[: len(above)] == above and len(parts) > len(above):
                    found.append((descriptor, parts[len(above) :]))
        if not found:
            raise _refusal(where)
        return found


def inWords(error: OSError) -> str:
    """Why a file cannot be opened, such as "no such file or directory"."""
    return os.strerror(error.errno or 0).lower()


def _opened(root: int, parts: list[str], flags: int, where: str) -> int:
    """Open what is below a directory, following no symbolic link."""
    held = os.open(".", _DIRECTORY, dir_fd=root)
    for index, part in enumerate(parts):
        isLast = index == len(parts) - 1
        try:
            following = os.open(part, flags if isLast else _DIRECTORY, dir_fd=held)
        except OSError as error:
            if error.errno == errno.ELOOP or (error.errno == errno.ENOTDIR and _isLink(part, held)):
                raise _refusal(where, _LINK) from None
            raise
        finally:
            os.close(held)
        held = following
    return held


def _isLink(name: str, directory: int) -> bool:
    try:
        os.readlink(name, dir_fd=directory)
    except OSError:
        return False
    return True


def _refusal(where: str, why: str = "") -> NotPermitted:
    return NotPermitted(f"{where}: expected a path below a directory that the operator allows{why}")

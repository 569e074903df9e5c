"""Where ``librkllmrt.so`` is on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

NAME = "librkllmrt.so"
DIRECTORIES = ("/usr/lib", "/usr/local/lib", "/lib", "/usr/lib/aarch64-linux-gnu")
VARIABLE = "RKLLM_LIBRARY"


class NoLibrary(ValueError):
    """There is none. The message says where it was looked for and how to say where it is."""


def findLibrary(option: str | None, environ: Mapping[str, str], directories: Iterable[str | Path] = DIRECTORIES) -> str:
    """Find the library. A relative path is one from the directory that the process is in now.

    Args:
        option: The path that the option ``library`` gives; it alone counts then.
        environ: The environment. ``RKLLM_LIBRARY`` comes next and alone counts then; the directories of
            ``LD_LIBRARY_PATH`` come last.
        directories: Where to look first without either.

    Returns:
        The absolute path of a file: the library is opened when the first model is loaded, and the daemon may have gone
        to work in another directory by then (``twistd --rundir``).

    Raises:
        NoLibrary: There is none.
    """
    for path, said in ((option, "library="), (environ.get(VARIABLE), f"the variable {VARIABLE}")):
        if path:
            if not os.path.isfile(path):
                raise NoLibrary(f"{said} names {path}, which is not a file{_hidden(path)}")
            return os.path.abspath(path)
    more = [directory for directory in environ.get("LD_LIBRARY_PATH", "").split(":") if directory]
    places = [Path(directory) for directory in (*directories, *more)]
    for place in places:
        if os.path.isfile(place / NAME):  # Path.is_file raises where a directory may not be entered
            return os.path.abspath(place / NAME)
    raise NoLibrary(
        f"there is no {NAME} in {', '.join(map(str, places))}; if you have one, say where: "
        f"--backend rkllm:library=PATH or {VARIABLE}=PATH"
    )


def _hidden(path: str) -> str:
    """Why nothing can be seen at a path; nothing where there is something else, or nothing at all."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f": {os.strerror(error.errno or 0).lower()}"
    return ""

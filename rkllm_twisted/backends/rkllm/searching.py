"""Where ``librkllmrt.so`` is on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

NAME = "librkllmrt.so"
DIRECTORIES = ("/usr/lib", "/usr/local/lib", "/lib", "/usr/lib/aarch64-linux-gnu")
VARIABLE = "RKLLM_LIBRARY"


class NoLibrary(ValueError):
    """There is none. The message says where it was looked for and how to say where it is."""


def findLibrary(option: str | None, environ: Mapping[str, str], directories: Iterable[str | Path] = DIRECTORIES) -> str:
    """Find the library.

    Args:
        option: The path that the option ``library`` gives; it alone counts then.
        environ: The environment. ``RKLLM_LIBRARY`` comes next and alone counts then; the directories of
            ``LD_LIBRARY_PATH`` come last.
        directories: Where to look first without either.

    Returns:
        The path of a file.

    Raises:
        NoLibrary: There is none.
    """
    for path, said in ((option, "library="), (environ.get(VARIABLE), f"the variable {VARIABLE}")):
        if path:
            if not Path(path).is_file():
                raise NoLibrary(f"{said} names {path}, which is not a file")
            return path
    more = [directory for directory in environ.get("LD_LIBRARY_PATH", "").split(":") if directory]
    places = [Path(directory) for directory in (*directories, *more)]
    for place in places:
        if (place / NAME).is_file():
            return str(place / NAME)
    raise NoLibrary(
        f"there is no {NAME} in {', '.join(map(str, places))}; if you have one, say where: "
        f"--backend rkllm:library=PATH or {VARIABLE}=PATH"
    )

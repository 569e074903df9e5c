"""The shape of the default parameters of a library, as a cross-check of its family.

``rkllm_createDefaultParam`` returns its struct by value. A caller that offers more room than the struct needs gets the
bytes as they are, in whatever layout the library has; the documented defaults (manual 1.3.0, section 3.2.2) stand at
places that differ from family to family. That is derived from the layouts and was tried on no board, so that nothing is
decided by it: it may contradict what else is known, no more.

A file that is no librkllmrt may do anything when it is opened: this happens in a process of its own, whose module this
is too (``python -m rkllm_twisted.backends.rkllm.probing PATH``).
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from typing import Any

from rkllm_twisted.backends.rkllm.families import FAMILIES, Family

SECONDS = 20
"""How long opening a library may take. The vendor's, of 7 MB, is read from flash."""

FIELDS = {
    "top_k": 40,
    "top_p": 0.9,
    "temperature": 0.8,
    "repeat_penalty": 1.1,
    "mirostat_tau": 5.0,
    "mirostat_eta": 0.1,
}
EXTENDED_FIELDS = {"enabled_cpus_num": 4, "n_batch": 1}

_MODULE = "rkllm_twisted.backends.rkllm.probing"
_MARK = "the bytes are "


def probe(path: str, seconds: float = SECONDS) -> tuple[str, tuple[str, ...]]:
    """Look at the default parameters of a library, in a child process.

    Args:
        path: The library.
        seconds: How long to wait.

    Returns:
        What was found, in words, and the keys of the families whose layout it fits; all of them where it says nothing.
    """
    # With the module path of this process, or the child might find another copy of this package, or none.
    start = f"import sys; sys.path[:] = {sys.path!r}; import runpy; runpy.run_module({_MODULE!r}, run_name='__main__')"
    command = [sys.executable, "-c", start, os.path.abspath(path)]  # a bare name would be looked for elsewhere
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, stdin=subprocess.DEVNULL, check=False)
    except subprocess.TimeoutExpired:
        return f"nothing: it did not answer within {seconds:g} s", tuple(FAMILIES)
    marked = re.search(_MARK.encode("ascii") + b"([0-9a-f]{2048})", done.stdout)  # the library may print too
    if done.returncode or marked is None:
        return f"nothing: {_howItEnded(done)}", tuple(FAMILIES)
    return judge(bytes.fromhex(marked[1].decode("ascii")))


def judge(room: bytes) -> tuple[str, tuple[str, ...]]:
    """Which families' default parameters the bytes may be."""
    fitting = tuple(key for key, family in FAMILIES.items() if _fits(family, room))
    if not fitting:
        return "nothing: the defaults are not the documented ones in any layout", tuple(FAMILIES)
    return f"the documented defaults where {' or '.join(fitting)} has them", fitting


def _fits(family: Family, room: bytes) -> bool:
    param = family.ffi.from_buffer("RKLLMParam *", room)
    return all(_isClose(getattr(param, name), value) for name, value in FIELDS.items()) and all(
        _isClose(getattr(param.extend_param, name), value)
        for name, value in EXTENDED_FIELDS.items()
        if family.hasField("RKLLMExtendParam", name)
    )


def _isClose(found: float, expected: float) -> bool:
    return math.isclose(found, expected, rel_tol=1e-6)


def _howItEnded(done: subprocess.CompletedProcess[bytes]) -> str:
    if done.returncode < 0:
        return f"the process that opened it ended by signal {-done.returncode}"
    last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return f"it cannot be opened ({last[-200:]})" if last else "it cannot be opened"


def _main(path: str) -> None:
    from rkllm_twisted.backends.rkllm.families import _abi_probe

    ffi: Any = _abi_probe.ffi
    library = ffi.dlopen(path)  # closed when nothing refers to it: a function alone does not
    room = library.rkllm_createDefaultParam()
    sys.stdout.write(_MARK + bytes(ffi.buffer(ffi.addressof(room))).hex())


if __name__ == "__main__":
    _main(sys.argv[1])

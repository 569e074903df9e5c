"""The C functions of llama.cpp, opened once in a process.

Every call gives up the GIL. What the library logs is collected for each thread while that thread asks for it
(`Library.reasons`), so that a failure can carry llama.cpp's own words.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rkllm_twisted.backends.llamacpp.providers import NoProvider, Provider, findProvider

logger = logging.getLogger(__name__)

ERROR, CONTINUED = 4, 5
"""Levels of a line of the log (ggml_log_level of ggml.h); the second one goes on with the line before it."""
LEVELS = {3: logging.INFO, ERROR: logging.WARNING}
"""Of the lines that nobody collects, those that are logged, and how; 3 is a warning."""
GLIBC_ONLY = "malloc_trim"
"""A function among the declared ones that other C libraries lack."""

KNOWN_DEFAULTS: dict[str, dict[str, object]] = {
    "llama_model_default_params": {
        "n_gpu_layers": -1,
        "split_mode": 1,
        "load_mode": -1,
        "lazy_mode": 1,
        "main_gpu": 0,
        "vocab_only": False,
        "use_extra_bufts": True,
        "no_host": False,
        "load_mtp": False,
    },
    "llama_context_default_params": {
        "n_ctx": 512,
        "n_batch": 2048,
        "n_ubatch": 512,
        "n_seq_max": 1,
        "n_outputs_max_per_seq": 1,
        "rope_scaling_type": -1,
        "flash_attn_type": -1,
        "yarn_ext_factor": -1.0,
        "defrag_thold": -1.0,
        "type_k": 1,
        "type_v": 1,
        "embeddings": False,
        "offload_kqv": True,
        "no_perf": True,
        "op_offload": True,
        "swa_full": True,
        "kv_unified": False,
        "n_samplers": 0,
    },
}
"""What the two releases answer. A field more or less anywhere moves the ones behind it."""


class LibraryUnusable(Exception):
    """The shared object cannot be used. The message says why and what to do, and names no path."""


class Library:
    """An opened llama.cpp.

    Args:
        provider: Where it comes from.
        path: The shared object.
        environ: The environment that the library will read.

    Attributes:
        ffi: The cffi types of its declarations.
        c: The functions, under their own names.
        wantsAbort: ``strlen`` as an abort callback. llama.cpp asks it between the nodes of a computation; given a
            buffer of two bytes as its data, it says true as soon as the first is not zero. Being C, it needs neither
            Python nor the GIL there.

    Raises:
        LibraryUnusable: It cannot be opened, lacks a function, or has other layouts.
    """

    def __init__(self, provider: Provider, path: Path, environ: MutableMapping[str, str] = os.environ) -> None:
        environ.setdefault("GGML_NO_BACKTRACE", "1")  # else an abort starts gdb first, where that is installed
        self.provider = provider
        self.ffi: Any = importlib.import_module(f"rkllm_twisted.backends.llamacpp.{provider.abi}").ffi
        self.c: Any = _opened(self.ffi, path)
        checkLayout(self.c)
        self._collected: dict[int, list[str]] = {}
        # cffi's callbacks live as long as these references.
        self._onLog = self.ffi.callback("ggml_log_callback", self._logged)
        self._onAbort = self.ffi.callback("ggml_abort_callback_t", self._aborting)
        self._libc = self.ffi.dlopen(None)
        self.wantsAbort: Any = self.ffi.cast("ggml_abort_callback", self.ffi.addressof(self._libc, "strlen"))
        self.c.llama_log_set(self._onLog, self.ffi.NULL)
        self.c.ggml_set_abort_callback(self._onAbort)
        self.c.llama_backend_init()

    def giveBack(self) -> None:
        """Give memory that has been freed back to the system, which glibc does by itself for pieces above 32 MB only:
        what it keeps after a few models came to 110 MB (measured). Takes a few milliseconds.
        """
        trim = getattr(self._libc, GLIBC_ONLY, None)
        if trim is not None:
            trim(0)

    @contextmanager
    def reasons(self) -> Iterator[Callable[[], str]]:
        """Collect what the library says at error level in this thread; yields a function that joins it to one line."""
        thread = threading.get_ident()
        lines = self._collected[thread] = []
        try:
            yield lambda: oneLine("".join(lines))
        finally:
            del self._collected[thread]

    def _logged(self, level: int, text: Any, _data: Any) -> None:
        line = self.ffi.string(text).decode("utf-8", "replace")
        collected = self._collected.get(threading.get_ident())
        if collected is not None and (level == ERROR or (level == CONTINUED and collected)):
            collected.append(line)
        elif level in LEVELS:
            logger.log(LEVELS[level], "%s", line.rstrip())

    def _aborting(self, message: Any) -> None:
        # The process ends when this returns: llama.cpp found that one of its own assumptions does not hold.
        logger.critical("llama.cpp aborts the process: %s", self.ffi.string(message).decode("utf-8", "replace"))


def _opened(ffi: Any, path: Path) -> Any:
    try:
        opened = ffi.dlopen(str(path))
    except OSError as error:
        reason = str(error).replace(str(path.parent) + os.sep, "")
        hint = " (Debian: apt-get install libgomp1)" if "libgomp" in reason else ""
        raise LibraryUnusable(f"llama.cpp cannot be opened: {reason}{hint}") from error
    try:
        for name in dir(opened):
            if name != GLIBC_ONLY:
                getattr(opened, name)
    except ffi.error as error:
        raise LibraryUnusable(f"this llama.cpp lacks a function: {str(error).replace(str(path), path.name)}") from error
    return opened


def checkLayout(c: Any) -> None:
    """Compare known default values, the last fields of each struct among them.

    Args:
        c: The functions. Only the two that return default parameters are called.

    Raises:
        LibraryUnusable: One is different, so the structs of this llama.cpp are not those that were declared.
    """
    for function, known in KNOWN_DEFAULTS.items():
        params = getattr(c, function)()
        for field, value in known.items():
            if (found := getattr(params, field)) != value:
                raise LibraryUnusable(
                    f"this llama.cpp has other parameter structs than declared: {function} gives {field} {found}, "
                    f"expected {value}"
                )


def oneLine(log: str) -> str:
    """The lines of a log joined, without the names of the functions that wrote them and without repetition."""
    lines = [re.sub(r"^(\w+: |error loading model: )+", "", line.strip()) for line in log.splitlines()]
    telling = [line for line in lines if line and not line.startswith("failed to load model")]
    return "; ".join(dict.fromkeys(telling or filter(None, lines))) or "llama.cpp gave no reason"


_library: Library | None = None
_opening = threading.Lock()


def theLibrary() -> Library:
    """The library of this process, opened at the first call. May be called from any thread.

    Raises:
        LibraryUnusable: None can be used; asked again at the next call.
    """
    global _library
    with _opening:
        if _library is None:
            try:
                _library = Library(*findProvider())
            except NoProvider as reason:
                raise LibraryUnusable(str(reason)) from None
        return _library

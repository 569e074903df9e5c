"""An opened ``librkllmrt.so``, and the way of its callbacks to the runs that they are meant for.

A library is opened once and never closed. Its one result callback lives as long as the process: whatever thread calls
it, and however late, it finds living code. Which run it is meant for stands in ``userdata``, as a number and not as a
pointer, so that a result of a run that is over (seen on 1.2.0 after an abort) is told from one of the next.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rkllm_twisted.backends.rkllm.families import Family

Receive = Callable[[Any, int], int]
"""Takes a pointer to the results and the state; returns what the callback returns."""


class LibraryUnusable(Exception):
    """The file cannot be used. The message says why and what to do, and names no directory."""


class Library:
    """An opened library.

    Args:
        path: The file.
        family: What it is of; nothing checks that here.

    Attributes:
        family: The same.
        ffi: The cffi types of the family.
        c: The functions, under their own names.
        callback: What ``rkllm_init`` takes to call back.
        models: How many are loaded.

    Raises:
        LibraryUnusable: It cannot be opened, or lacks a function.
    """

    def __init__(self, path: str, family: Family) -> None:
        self.family = family
        self.ffi: Any = family.ffi
        self.c: Any = _opened(self.ffi, path)
        self.models = 0
        # By their userdata: two pointers of cffi are equal if they point to the same.
        self._runs: dict[Any, Receive] = {}
        self._numbers = itertools.count(1)  # from 1.3 on a userdata of NULL is replaced by that of the callback struct
        self._onResult = self.ffi.callback("LLMResultCallback", self._received, error=0)
        self.callback = self._callbackArgument()

    def _callbackArgument(self) -> Any:
        """What ``rkllm_init`` takes: a struct from 1.3 on, before that the function itself.

        Whether init copies the struct is not known. Without the other two callbacks, a model that was exported with its
        tokenizer and its embedding table runs as ever (the vendor's Python demo does it).
        """
        if not self.family.hasField("RKLLMCallback", "result_callback"):
            return self._onResult
        callback = self.ffi.new("RKLLMCallback *")
        callback.result_callback = self._onResult
        return callback

    @contextmanager
    def receiving(self, receive: Receive) -> Iterator[Any]:
        """Let a function take the results of one run; yields the ``userdata`` of that run."""
        userdata = self.ffi.cast("void *", next(self._numbers))
        self._runs[userdata] = receive
        try:
            yield userdata
        finally:
            del self._runs[userdata]

    def _received(self, results: Any, userdata: Any, state: int) -> int:
        receive = self._runs.get(userdata)
        return 0 if receive is None else receive(results, state)


def _opened(ffi: Any, path: str) -> Any:
    name = os.path.basename(path)
    try:
        opened = ffi.dlopen(os.path.abspath(path))  # without a slash it would be looked for elsewhere
    except OSError as error:
        reason = str(error).replace(os.path.abspath(path), name)
        hint = " (Debian: apt-get install libgomp1)" if "libgomp" in reason else ""
        raise LibraryUnusable(f"{name} cannot be opened: {reason}{hint}") from error
    for function in dir(opened):
        if function.startswith("rkllm_") and not _has(ffi, opened, function):
            raise LibraryUnusable(f"{name} has no {function}, which its family has")
    return opened


def _has(ffi: Any, library: Any, function: str) -> bool:
    try:
        getattr(library, function)
    except ffi.error:
        return False
    return True

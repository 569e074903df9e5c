"""A model in the library's memory: its handle, and every call that is made with it."""

from __future__ import annotations

from typing import Any

from rkllm_twisted.backends.rkllm.library import Library
from rkllm_twisted.backends.rkllm.writing import Writer
from rkllm_twisted.errors import ModelLoadFailed, ModelNotInitialized, RuntimeCallFailed
from rkllm_twisted.values import RKLLMParam


class Loaded:
    """A loaded model. One thread at a time may call it, `abort` excepted.

    Args:
        library: That loaded it.
        handle: Of the model.
        kept: What the library may look at until the model is destroyed.

    Attributes:
        library: The same.
    """

    def __init__(self, library: Library, handle: Any, kept: object) -> None:
        self.library = library
        self._handle = handle
        self._kept = kept

    def call(self, function: str, *arguments: Any, hint: str = "") -> None:
        """Call a function with the handle.

        Args:
            function: Its name in C.
            arguments: What comes after the handle.
            hint: Why it may fail.

        Raises:
            RuntimeCallFailed: It returned something else than 0.
            ModelNotInitialized: The model is destroyed.
        """
        status = self.status(function, *arguments)
        if status != 0:
            raise RuntimeCallFailed(f"{function} returned {status}{hint}", function=function, status=status)

    def status(self, function: str, *arguments: Any) -> int:
        """Call a function with the handle; gives what it returns.

        Raises:
            ModelNotInitialized: The model is destroyed.
        """
        if self._handle is None:
            raise ModelNotInitialized("this model is destroyed")
        status: int = getattr(self.library.c, function)(self._handle, *arguments)
        return status

    def abort(self) -> None:
        """Order the end of the run that is in progress. From any thread; what it returns is not to be relied on."""
        handle = self._handle
        if handle is not None:
            self.library.c.rkllm_abort(handle)

    def destroy(self) -> None:
        """Free the model. Calling it again does nothing: what a second ``rkllm_destroy`` does is not known.

        Raises:
            RuntimeCallFailed: The library reports a failure; the model counts as freed all the same.
        """
        handle, self._handle = self._handle, None
        if handle is None:
            return
        self.library.models -= 1
        status = self.library.c.rkllm_destroy(handle)
        self._kept = None
        if status != 0:
            raise RuntimeCallFailed(f"rkllm_destroy returned {status}", function="rkllm_destroy", status=status)


def load(library: Library, param: RKLLMParam) -> Loaded:
    """Load a model. Blocks for seconds (3 s for a file of 2 GB, 13 s on the small cores: measured on 1.3.1).

    Args:
        library: Loads it.
        param: Checked, with every choice made.

    Raises:
        ModelLoadFailed: The library refused, or gave no model though it did not.
    """
    if library.models and not library.family.holdsSeveral:
        raise ModelLoadFailed("this release of the runtime holds one model in a process, and one is loaded")
    writer = Writer(library.ffi)
    handle = library.ffi.new("LLMHandle *")
    status = library.c.rkllm_init(handle, writer.new("RKLLMParam", param), library.callback)
    if status != 0:
        raise ModelLoadFailed(
            f"{param.model_path}: rkllm_init returned {status}, the log of the library says why; known reasons: the "
            "file is damaged, for another chip or older than 1.1, its context limit is below max_context_len, "
            f"{param.max_context_len}, NPU memory has run out, or there are fewer CPUs than NPU cores"
        )
    if not handle[0]:  # seen on 1.2.3
        raise ModelLoadFailed(f"{param.model_path}: rkllm_init gave no model and no error; NPU memory may have run out")
    library.models += 1
    # Whether the library copies the image tags of RKLLMParam is not known.
    return Loaded(library, handle[0], kept=writer)

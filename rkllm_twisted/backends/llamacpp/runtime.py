"""The runtime and its models: what happens from a client's parameters to its last result."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from zope.interface import implementer

from rkllm_twisted.backends.llamacpp import checking
from rkllm_twisted.backends.llamacpp.library import Library, LibraryUnusable, theLibrary
from rkllm_twisted.backends.llamacpp.loaded import DEFAULT_CONTEXT, load
from rkllm_twisted.backends.llamacpp.model import CAPABILITIES, DEFAULT_NEW_TOKENS, LlamaModel
from rkllm_twisted.backends.llamacpp.models import ModelFile, findModel
from rkllm_twisted.errors import ModelLoadFailed
from rkllm_twisted.interfaces import IRuntime, IRuntimeModel
from rkllm_twisted.values import RKLLMExtendParam, RKLLMParam

CPUS = 8
"""``rkllm.h`` names CPU0 to CPU7."""


@implementer(IRuntime)
class LlamaRuntime:
    """llama.cpp on the CPU. Nothing is opened before `init`.

    Args:
        threads: How many threads compute, for each model.
        seed: Makes sampling repeatable from run to run; None is random for each run.
        openLibrary: Gives the C functions; may block.
        seconds: A monotonic clock, for the figures of a run.
    """

    name = "llamacpp"
    capabilities = CAPABILITIES

    def __init__(
        self,
        *,
        threads: int,
        seed: int | None = None,
        openLibrary: Callable[[], Library] = theLibrary,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._threads = threads
        self._seed = seed
        self._openLibrary = openLibrary
        self._seconds = seconds

    def createDefaultParam(self) -> RKLLMParam:
        """The documented defaults of RKLLM (manual 1.3.0, section 3.2.2).

        Of the two that are not documented, ``max_context_len`` is 2048, which nearly every model allows, and
        ``max_new_tokens`` is 512. The CPU fields name the first cores of this machine; they have no effect.
        ``skip_special_token`` is true, against RKLLM's false: with that, every answer would end in ``<|im_end|>``.
        """
        cpus = max(1, min(CPUS, os.cpu_count() or 1))
        extend = RKLLMExtendParam(enabled_cpus_num=cpus, enabled_cpus_mask=2**cpus - 1)
        return RKLLMParam(
            max_context_len=DEFAULT_CONTEXT,
            max_new_tokens=DEFAULT_NEW_TOKENS,
            skip_special_token=True,
            extend_param=extend,
        )

    def checkParam(self, param: RKLLMParam) -> None:
        """See `IRuntime.checkParam`. Reads the file's header."""
        self._checked(param)

    def init(self, param: RKLLMParam) -> IRuntimeModel:
        """See `IRuntime.init`."""
        file = self._checked(param)
        try:
            library = self._openLibrary()
        except LibraryUnusable as reason:
            raise ModelLoadFailed(str(reason)) from reason
        loaded = load(
            library,
            file,
            contextLength=param.max_context_len,
            threads=self._threads,
            sequences=param.extend_param.n_batch,
        )
        return LlamaModel(loaded, param, file.systemPrompt, seed=self._seed, seconds=self._seconds)

    def _checked(self, param: RKLLMParam) -> ModelFile:
        checking.checkParam(param)
        file = findModel(param.model_path)
        limit = file.header.contextLimit
        checking.checkContext(file.name, param.max_context_len, limit)
        length = param.max_context_len or min(limit or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
        checking.check(
            "$.param.n_keep", param.n_keep, f"less than the context of {length} tokens", range(-1, length).__contains__
        )
        return file

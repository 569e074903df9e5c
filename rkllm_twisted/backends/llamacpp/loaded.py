"""A model and its context in C's memory: how they come to be, and who owns what.

`Loaded` owns the model, the context and its batches; `Loaded.free` frees them in the reverse order. What else keeps a
pointer is part of it. One thread at a time may call it, the context's `StopFlag` excepted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rkllm_twisted.backends.llamacpp.adapters import Adapters
from rkllm_twisted.backends.llamacpp.checking import checkContext
from rkllm_twisted.backends.llamacpp.context import BLOCK, Context, StopFlag
from rkllm_twisted.backends.llamacpp.header import Header
from rkllm_twisted.backends.llamacpp.library import Library
from rkllm_twisted.backends.llamacpp.models import ModelFile
from rkllm_twisted.backends.llamacpp.promptcache import fingerprint
from rkllm_twisted.backends.llamacpp.vocabulary import Vocabulary
from rkllm_twisted.errors import ModelLoadFailed
from rkllm_twisted.values import Capability

DEFAULT_CONTEXT = 2048
"""``max_context_len`` by default: nearly every model allows it, and none takes gigabytes for it. 0 is this or, where it
is less, the model's own limit."""
PADDING = 256
"""llama.cpp rounds the length of a context up to a multiple of this."""
NO_POOLING = 0  # LLAMA_POOLING_TYPE_NONE
MROPE = 8
"""The bit that the rope types with several dimensions have in common (GGML_ROPE_TYPE_MROPE of ggml.h)."""
NOT_CAUSAL = ("gemma3", "gemma4")
"""Architectures whose images must be computed without causal attention; not done here, and so refused."""


def load(library: Library, file: ModelFile, *, contextLength: int, threads: int, sequences: int = 1) -> Loaded:
    """Load a model and make a context for it. Blocks (0.1 to 0.3 s for 93 MB, measured).

    Args:
        library: The functions.
        file: What to load; its header has been checked.
        contextLength: Tokens of prompt and answer together; 0 takes the default.
        threads: How many threads compute.
        sequences: How many runs there are side by side, each with a context of that length.

    Raises:
        ModelLoadFailed: With llama.cpp's reason; everything is freed.
    """
    with ExitStack() as owned, library.reasons() as reasons:
        try:
            mark = _markOf(library, file.path)
            model = _loadModel(library, file.path, reasons, owned)
            limit = library.c.llama_model_n_ctx_train(model)
            checkContext(file.name, contextLength, limit)
            _checkKind(library, model)
            length = contextLength or min(limit, DEFAULT_CONTEXT)
            _checkMemory(file.header.contextBytes(length) * sequences, length)
            context = _makeContext(library, model, length, threads, sequences, reasons, owned)
        except _Unusable as reason:
            raise ModelLoadFailed(f"{file.name}: {str(reason).replace(file.path, file.name)}") from None
        return Loaded(library, file, mark, model, context, owned.pop_all())


class _Unusable(Exception):
    """The model cannot be served. The message may name its path, which the client has perhaps never heard of."""


def _markOf(library: Library, path: str) -> str:
    try:
        return fingerprint(path, f"{library.provider.distribution} {library.provider.version}")
    except OSError as error:
        raise _Unusable(os.strerror(error.errno or 0).lower()) from None


def _loadModel(library: Library, path: str, reasons: Callable[[], str], owned: ExitStack) -> Any:
    params = library.c.llama_model_default_params()
    params.n_gpu_layers = 0
    # Else weights that are not numbers load in silence and answer with nonsense. Takes 25 ms for 93 MB (measured).
    params.check_tensors = True
    model = library.c.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise _Unusable(reasons())
    owned.callback(library.giveBack)  # after all else
    owned.callback(library.c.llama_model_free, model)
    return model


def _checkKind(library: Library, model: Any) -> None:
    """Refuse what is no model of text. llama.cpp would end the process at a token without a vocabulary."""
    vocabulary = library.c.llama_model_get_vocab(model)
    if not library.c.llama_vocab_type(vocabulary) or library.c.llama_vocab_n_tokens(vocabulary) < 1:
        raise _Unusable("it has no vocabulary")
    if library.c.llama_model_has_encoder(model) or not library.c.llama_model_has_decoder(model):
        raise _Unusable("it has an encoder; only models with nothing but a decoder are supported")


def _checkMemory(needed: int, length: int) -> None:
    if needed > (free := freeMemory()):
        raise _Unusable(f"a context of {length} tokens takes {needed >> 20} MB, {free >> 20} MB of memory are free")


def _makeContext(
    library: Library,
    model: Any,
    length: int,
    threads: int,
    sequences: int,
    reasons: Callable[[], str],
    owned: ExitStack,
) -> Context:
    stop = StopFlag(library)
    params = library.c.llama_context_default_params()
    # Of several sequences each gets an equal part, which is rounded up.
    params.n_ctx = length if sequences == 1 else -(-length // PADDING) * PADDING * sequences
    params.n_seq_max = sequences
    params.n_batch = params.n_ubatch = max(BLOCK, sequences)
    params.pooling_type = NO_POOLING  # hidden states are wanted as they are
    params.n_threads = params.n_threads_batch = threads
    params.abort_callback, params.abort_callback_data = library.wantsAbort, stop.bytes
    pointer = library.c.llama_init_from_model(model, params)
    if not pointer:
        raise _Unusable(f"no context of {length} tokens: {reasons()}")
    owned.callback(library.c.llama_free, pointer)
    if not library.c.llama_get_memory(pointer):
        raise _Unusable("it has no KV cache, so it cannot generate text (an embedding model?)")
    return Context(library, pointer, model, stop, length=length, sequences=sequences)


def freeMemory(meminfo: Path = Path("/proc/meminfo")) -> int:
    """The bytes that can be used without swapping; without end where the kernel does not say."""
    try:
        lines = meminfo.read_text("ascii", "replace").splitlines()
    except OSError:
        return sys.maxsize
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), sys.maxsize)


class Loaded:
    """A model with its context; made by `load`.

    Attributes:
        library: The functions.
        vocabulary: Its tokens.
        context: Its KV caches, and the computation.
        adapters: The LoRA adapters that have been loaded for it.
        chatTemplate: The source of its own chat template; None if it has none.
        fingerprint: Tells its file from others.
        takesNo: For the inputs that it cannot take, why.
    """

    def __init__(
        self, library: Library, file: ModelFile, mark: str, model: Any, context: Context, owned: ExitStack
    ) -> None:
        self.library = library
        self.context = context
        self.vocabulary = Vocabulary(library, model, file.header.longestToken)
        self.adapters = Adapters(library, model)
        self.fingerprint = mark
        source = library.c.llama_model_chat_template(model, library.ffi.NULL)
        self.chatTemplate = library.ffi.string(source).decode("utf-8", "replace") if source else None
        self.takesNo = _takesNo(library.c.llama_model_rope_type(model), file.header)
        self._owned = owned
        for part in (self.context, self.vocabulary, self.adapters):
            owned.callback(part.free)

    def free(self) -> None:
        """Free everything; calling it again does nothing. Only the context's `StopFlag` may be used afterwards."""
        self._owned.close()


def _takesNo(ropeType: int, header: Header) -> dict[Capability, str]:
    if ropeType >= 0 and ropeType & MROPE:
        reason = "its positions have several dimensions (M-RoPE)"
        return {Capability.EMBED_INPUT: reason, Capability.MULTIMODAL_INPUT: reason}
    if str(header.values.get("general.architecture")).startswith(NOT_CAUSAL):
        return {Capability.MULTIMODAL_INPUT: "the rows of its images look at each other in both directions"}
    return {}

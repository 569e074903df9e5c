"""A model and its context in C's memory: who owns what, and every call that touches it.

`Loaded` owns the model, the context and the batch; `Loaded.free` frees them in the reverse order. Nothing else keeps a
pointer. One thread at a time may call it, `Loaded.stop` excepted.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rkllm_twisted.backends.llamacpp.checking import checkContext
from rkllm_twisted.backends.llamacpp.library import Library
from rkllm_twisted.backends.llamacpp.models import ModelFile
from rkllm_twisted.errors import ModelLoadFailed, PromptTooLong, RuntimeCallFailed

BATCH = 256
"""The most tokens of one decode. Larger ones prefill no faster on a CPU, and take memory."""
DEFAULT_CONTEXT = 2048
"""``max_context_len`` by default: nearly every model allows it, and none takes gigabytes for it. 0 is this or, where it
is less, the model's own limit."""
DECODED, STOPPED = 0, 2  # answers of llama_decode


def load(library: Library, file: ModelFile, *, contextLength: int, threads: int) -> Loaded:
    """Load a model and make a context for it. Blocks (0.1 to 0.3 s for 93 MB, measured).

    Args:
        library: The functions.
        file: What to load; its header has been checked.
        contextLength: Tokens of prompt and answer together; 0 takes the default.
        threads: How many threads compute.

    Raises:
        ModelLoadFailed: With llama.cpp's reason; everything is freed.
    """
    with ExitStack() as owned, library.reasons() as reasons:

        def failed(reason: str) -> ModelLoadFailed:
            return ModelLoadFailed(f"{file.name}: {reason.replace(file.path, file.name)}")

        c, model = library.c, _loadModel(library, file.path)
        if not model:
            raise failed(reasons())
        owned.callback(c.llama_model_free, model)
        limit = c.llama_model_n_ctx_train(model)
        checkContext(file.name, contextLength, limit)
        if reason := _unfit(library, model):
            raise failed(reason)
        stop = library.ffi.new("char[2]")
        length = contextLength or min(limit, DEFAULT_CONTEXT)
        if (needed := file.header.contextBytes(length)) > (free := freeMemory()):
            raise failed(f"a context of {length} tokens takes {needed >> 20} MB, {free >> 20} MB of memory are free")
        context = _makeContext(library, model, stop, length, threads)
        if not context:
            raise failed(f"no context of {length} tokens: {reasons()}")
        owned.callback(c.llama_free, context)
        if not c.llama_get_memory(context):
            raise failed("it has no KV cache, so it cannot generate text (an embedding model?)")
        return Loaded(library, file, model, context, stop, length, owned.pop_all())


def _loadModel(library: Library, path: str) -> Any:
    params = library.c.llama_model_default_params()
    params.n_gpu_layers = 0
    # Else weights that are not numbers load in silence and answer with nonsense. Takes 25 ms for 93 MB (measured).
    params.check_tensors = True
    return library.c.llama_model_load_from_file(os.fsencode(path), params)


def _unfit(library: Library, model: Any) -> str | None:
    """Why this model cannot be served. llama.cpp would end the process at a token without a vocabulary."""
    vocabulary = library.c.llama_model_get_vocab(model)
    if not library.c.llama_vocab_type(vocabulary) or library.c.llama_vocab_n_tokens(vocabulary) < 1:
        return "it has no vocabulary"
    if library.c.llama_model_has_encoder(model) or not library.c.llama_model_has_decoder(model):
        return "it has an encoder; only models with nothing but a decoder are supported"
    return None


def _makeContext(library: Library, model: Any, stop: Any, length: int, threads: int) -> Any:
    params = library.c.llama_context_default_params()
    params.n_ctx = length
    params.n_batch = params.n_ubatch = BATCH
    params.n_threads = params.n_threads_batch = threads
    params.abort_callback, params.abort_callback_data = library.wantsAbort, stop
    return library.c.llama_init_from_model(model, params)


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
        context: The context, for the samplers.
        length: How many tokens the context holds. llama.cpp rounds up to 256; this is what was asked for.
        vocabularySize: How many tokens the model knows.
        used: How many tokens the context holds now.
    """

    def __init__(
        self, library: Library, file: ModelFile, model: Any, context: Any, stop: Any, length: int, owned: ExitStack
    ) -> None:
        self.library = library
        self.context = context
        self.length = length
        self.used = 0
        self._c, self._ffi = library.c, library.ffi
        self._model = model
        self._stop = stop
        self._owned = owned
        self._vocabulary = self._c.llama_model_get_vocab(model)
        self.vocabularySize: int = self._c.llama_vocab_n_tokens(self._vocabulary)
        self._batch = self._newBatch()
        self._piece = self._ffi.new("char[]", 256)
        self._longestToken = max(1, file.header.longestToken)

    def free(self) -> None:
        """Free everything. Only `stop` and `isStopped` may be called afterwards; calling it again does nothing."""
        self._owned.close()
        # A call that comes too late is then a TypeError and not a read of freed memory.
        self._model = self._vocabulary = self.context = None

    # Text

    @property
    def chatTemplate(self) -> str | None:
        """The source of the model's own chat template."""
        source = self._c.llama_model_chat_template(self._model, self._ffi.NULL)
        return self._ffi.string(source).decode("utf-8", "replace") if source else None

    def specialText(self) -> tuple[str, str]:
        """The texts of the tokens that begin and end a text; "" where the model has none."""
        begin, end = self._c.llama_vocab_bos(self._vocabulary), self._c.llama_vocab_eos(self._vocabulary)
        return self._text(begin), self._text(end)

    def tokenize(self, text: str) -> list[int]:
        """The ids of a text, in which the texts of special tokens stand for these tokens.

        A model that wants a begin token gets it, unless the text begins with it already. (llama_tokenize could add it,
        but ends the process where a model asks for one that it does not have.)

        Raises:
            PromptTooLong: The text cannot fit, however it is divided; ``tokens`` is the fewest that it can be. Told
                without llama.cpp, which takes 13 s for a text of 100000 special tokens (measured), deaf to `stop`.
        """
        data = text.encode("utf-8", "replace")
        if (fewest := len(data) // self._longestToken) >= self.length:
            raise PromptTooLong(tokens=fewest, limit=self.length)
        room = len(data) + 16
        ids = self._ffi.new("llama_token[]", room)
        count = self._c.llama_tokenize(self._vocabulary, data, len(data), ids, room, False, True)
        if count < 0:
            raise RuntimeCallFailed(function="llama_tokenize", status=count)
        tokens: list[int] = self._ffi.unpack(ids, count)
        begin = self._c.llama_vocab_bos(self._vocabulary)
        if self._c.llama_vocab_get_add_bos(self._vocabulary) and begin >= 0 and tokens[:1] != [begin]:
            tokens.insert(0, begin)
        return tokens

    def piece(self, token: int, *, special: bool) -> bytes:
        """The bytes of a token of this model; none for a special one unless asked for."""
        count = self._c.llama_token_to_piece(self._vocabulary, token, self._piece, len(self._piece), 0, special)
        if count < 0:  # the room that it needs, negated
            self._piece = self._ffi.new("char[]", -count)
            return self.piece(token, special=special)
        data: bytes = self._ffi.unpack(self._piece, count)
        return data

    def isEnd(self, token: int) -> bool:
        """Whether a token ends the generation."""
        return bool(self._c.llama_vocab_is_eog(self._vocabulary, token))

    # Computation

    def feed(self, tokens: list[int]) -> bool:
        """Put tokens into the context, which must have room for them, and compute the logits of the last.

        Returns:
            False if it was stopped; the context is then empty.

        Raises:
            RuntimeCallFailed: llama.cpp failed; the context is then empty.
        """
        for start in range(0, len(tokens), BATCH):  # a batch above n_batch ends the process
            with self.library.reasons() as reasons:
                status = self._decode(tokens[start : start + BATCH], start + BATCH >= len(tokens))
            if status != DECODED:
                self.clear()
            if status == STOPPED:
                return False
            if status != DECODED:
                raise RuntimeCallFailed(reasons(), function="llama_decode", status=status)
        return True

    def clear(self) -> None:
        """Empty the context."""
        self._c.llama_memory_clear(self._c.llama_get_memory(self.context), False)
        self.used = 0

    def stop(self) -> None:
        """Make `feed` return early, now and until `resume`. From any thread, at any time."""
        self._stop[0] = b"x"

    def resume(self) -> None:
        """Take every earlier `stop` back. From any thread, at any time."""
        self._stop[0] = b"\0"

    def isStopped(self) -> bool:
        """Whether `stop` was called after the last `resume`."""
        return bool(self._stop[0] != b"\0")

    def _decode(self, tokens: list[int], isLast: bool) -> int:
        count, batch = len(tokens), self._batch
        batch.n_tokens = count
        batch.token[0:count] = tokens
        batch.pos[0:count] = range(self.used, self.used + count)
        batch.logits[0:count] = [0] * (count - 1) + [int(isLast)]
        status: int = self._c.llama_decode(self.context, batch)
        if status == DECODED:
            self.used += count
        return status

    def _newBatch(self) -> Any:
        batch = self._c.llama_batch_init(BATCH, 0, 1)
        self._owned.callback(self._c.llama_batch_free, batch)
        for row in range(BATCH):
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, 0
        return batch

    def _text(self, token: int) -> str:
        return self.piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

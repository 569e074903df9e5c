"""llama.cpp driven by hand, for comparison: the C functions alone, nothing of what the backend does with them."""

from __future__ import annotations

import os
from pathlib import Path

import gguf
import numpy as np

from rkllm_twisted.backends.llamacpp.library import theLibrary


class Direct:
    """A model with a context, used for one computation after another, each of which begins anew.

    Args:
        path: The model file.
        adapter: The file of a LoRA adapter.
        scale: How strongly it applies.
        size: The most tokens of a computation, and of the context.
    """

    def __init__(self, path: Path, adapter: Path | None = None, scale: float = 1.0, size: int = 512) -> None:
        self._size = size
        self._c, self._ffi = theLibrary().c, theLibrary().ffi
        self._model = self._c.llama_model_load_from_file(os.fsencode(path), self._c.llama_model_default_params())
        self._context = self._ffi.NULL
        assert self._model
        if adapter is None:
            self._adapters = self._ffi.new("llama_adapter_lora *[1]")
        else:
            loaded = self._c.llama_adapter_lora_init(self._model, os.fsencode(adapter))
            assert loaded
            self._adapters = self._ffi.new("llama_adapter_lora *[]", [loaded])
        self._scales = self._ffi.new("float[]", [scale])
        self._hasAdapter = adapter is not None
        vocabulary = self._c.llama_model_get_vocab(self._model)
        self.vocabularySize: int = self._c.llama_vocab_n_tokens(vocabulary)
        self.width: int = self._c.llama_model_n_embd_out(self._model)

    def __enter__(self) -> Direct:
        return self

    def __exit__(self, *problem: object) -> None:
        self._c.llama_free(self._context)
        self._c.llama_model_free(self._model)

    def logits(self, tokens: list[int] | np.ndarray, batches: list[int] | None = None) -> np.ndarray:
        """The logits of every place, tokens × vocabulary.

        Args:
            tokens: The tokens; an array is rows of embeddings.
            batches: How many go into each batch; by default all into one.
        """
        return self._compute(tokens, batches or [len(tokens)], isHidden=False)

    def hidden(self, tokens: list[int] | np.ndarray, batches: list[int] | None = None) -> np.ndarray:
        """The hidden states of every place after the final norm, tokens × width; for the rest see `logits`."""
        return self._compute(tokens, batches or [len(tokens)], isHidden=True)

    def greedy(self, tokens: list[int], count: int) -> list[int]:
        """The likeliest tokens one after the other, the whole text computed again for each."""
        said: list[int] = []
        while len(said) < count:
            said.append(int(self.logits([*tokens, *said])[-1].argmax()))
        return said

    def _compute(self, tokens: list[int] | np.ndarray, batches: list[int], *, isHidden: bool) -> np.ndarray:
        assert sum(batches) == len(tokens)
        self._c.llama_free(self._context)
        params = self._c.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = self._size
        params.pooling_type, params.embeddings = 0, isHidden
        params.n_threads = params.n_threads_batch = 1
        self._context = self._c.llama_init_from_model(self._model, params)
        assert self._context
        assert not self._c.llama_set_adapters_lora(self._context, self._adapters, self._hasAdapter, self._scales)
        rows, done = [], 0
        for size in batches:
            self._decode(tokens[done : done + size], done)
            if isHidden:
                rows.append(self._rows(self._c.llama_get_embeddings(self._context), size, self.width))
            else:
                rows.append(self._rows(self._c.llama_get_logits(self._context), size, self.vocabularySize))
            done += size
        return np.concatenate(rows)

    def _decode(self, tokens: list[int] | np.ndarray, position: int) -> None:
        isEmbedded = isinstance(tokens, np.ndarray)
        batch = self._c.llama_batch_init(len(tokens), tokens.shape[1] if isEmbedded else 0, 1)
        batch.n_tokens = len(tokens)
        if isEmbedded:
            data = np.ascontiguousarray(tokens, np.float32).tobytes()
            self._ffi.memmove(batch.embd, data, len(data))
        for place in range(len(tokens)):
            if not isEmbedded:
                batch.token[place] = tokens[place]
            batch.pos[place], batch.logits[place] = position + place, 1
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
        assert not self._c.llama_decode(self._context, batch)
        self._c.llama_batch_free(batch)

    def _rows(self, start: object, rows: int, width: int) -> np.ndarray:
        return np.frombuffer(bytes(self._ffi.buffer(start, rows * width * 4)), np.float32).reshape(rows, width)


def weightsOf(path: Path, name: str) -> np.ndarray:
    """A tensor of a model file as float32, in numpy's order: ``token_embd.weight`` is vocabulary × width."""
    tensor = next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == name)
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)

"""A llama.cpp with other KV caches or with failures, and what a model's sequences hold."""

from __future__ import annotations

from rkllm_twisted.backends.llamacpp.runtime import LlamaRuntime
from tests.backends.llamacpp.running import recordedLibrary

CACHES = ["shifts", "stays", "whole"]
"""See `Rigged`."""


def held(model, number=0):
    """The places of a sequence, of which the KV cache has as many as the model says."""
    sequence = model._sequences[number]
    assert model.getKVCacheSize()[number] == sequence.computed == model._context.count(number)
    assert sequence.computed <= len(sequence.places)
    return list(sequence.places)


def failing(compute):
    """A computation that fails at once."""
    return -3


def failingLate(compute):
    """A computation that fails when it is done."""
    compute()
    return -3


def never(*arguments):
    raise AssertionError("llama.cpp would end the process")


class Rigged:
    """A runtime whose llama.cpp has other caches, or fails.

    Args:
        cache: ``shifts``; ``stays``: places cannot be moved; ``whole``: nor forgotten, but all at once.
    """

    def __init__(self, cache="shifts"):
        self.library = recordedLibrary()
        self.answers = self.library.c.answers
        self.runtime = LlamaRuntime(threads=1, openLibrary=lambda: self.library)
        self._decode, self._remove = self.library.c.llama_decode, self.library.c.llama_memory_seq_rm
        if cache != "shifts":
            self.answers["llama_memory_can_shift"] = lambda memory: False
            self.answers["llama_memory_seq_add"] = never
        if cache == "whole":
            self.answers["llama_memory_seq_rm"] = self._removeWhole

    def _removeWhole(self, memory, sequence, start, end):
        last = self.library.c.llama_memory_seq_pos_max(memory, sequence)
        return not 0 < start <= last and self._remove(memory, sequence, start, end)

    def atDecode(self, number, then):
        """From the so-manyth computation on: ``then(compute)`` answers, once."""
        counted = iter(range(1, 10**6))

        def decode(context, batch):
            def compute():
                return self._decode(context, batch)

            return then(compute) if next(counted) == number else compute()

        self.answers["llama_decode"] = decode

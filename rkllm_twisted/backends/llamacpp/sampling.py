"""Logits -> a token, by a chain of llama.cpp's samplers."""

from __future__ import annotations

from typing import Any

from rkllm_twisted.backends.llamacpp.library import Library
from rkllm_twisted.values import RKLLMSamplingParam

PENALTY_WINDOW = 64
"""How many of the last generated tokens the penalties look at: llama.cpp's own default; RKLLM's is not documented."""
MIROSTAT_M = 100
"""The m of the mirostat paper, https://arxiv.org/abs/2007.14966 as in llama.cpp. RKLLM has no field for it."""
COLDEST = 1e-6
"""Below this temperature sampling is greedy anyway, and the division by it would overflow."""
RANDOM_SEED = 2**32 - 1
"""LLAMA_DEFAULT_SEED: llama.cpp draws one from the system."""


class SamplerChain:
    """The samplers of one run, in C's memory until `close`.

    Args:
        library: The functions.
        sampling: What to sample by, already checked.
        vocabularySize: How many tokens there are.
        seed: Makes the choice repeatable; None is random.
    """

    def __init__(self, library: Library, sampling: RKLLMSamplingParam, vocabularySize: int, seed: int | None) -> None:
        self._c = library.c
        self._chain: Any = self._c.llama_sampler_chain_init(self._c.llama_sampler_chain_default_params())
        # A sampler belongs to the chain from here on and is freed with it.
        for sampler in self._samplers(sampling, vocabularySize, RANDOM_SEED if seed is None else seed):
            self._c.llama_sampler_chain_add(self._chain, sampler)

    def sample(self, context: Any, row: int) -> int:
        """Choose the token that follows a place of the last computation, whose logits must have been asked for.

        Args:
            context: The context.
            row: Which place of that computation; -1 is the last.
        """
        token: int = self._c.llama_sampler_sample(self._chain, context, row)
        return token

    def close(self) -> None:
        """Free the samplers. To be called once."""
        self._c.llama_sampler_free(self._chain)

    def _samplers(self, sampling: RKLLMSamplingParam, size: int, seed: int) -> list[Any]:
        c = self._c
        penalties = c.llama_sampler_init_penalties(
            size, PENALTY_WINDOW, sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty
        )
        if isGreedy(sampling):
            return [penalties, c.llama_sampler_init_greedy()]
        temperature = c.llama_sampler_init_temp(sampling.temperature)
        tau, eta = sampling.mirostat_tau, sampling.mirostat_eta
        if sampling.mirostat == 1:
            return [penalties, temperature, c.llama_sampler_init_mirostat(size, seed, tau, eta, MIROSTAT_M)]
        if sampling.mirostat == 2:
            return [penalties, temperature, c.llama_sampler_init_mirostat_v2(seed, tau, eta)]
        topK, topP = c.llama_sampler_init_top_k(sampling.top_k), c.llama_sampler_init_top_p(sampling.top_p, 1)
        return [penalties, topK, topP, temperature, c.llama_sampler_init_dist(seed)]


def isGreedy(sampling: RKLLMSamplingParam) -> bool:
    """Whether the most probable token is taken: RKLLM's two ways to ask for that are top_k 1 and temperature 0."""
    return sampling.top_k == 1 or sampling.temperature < COLDEST

"""Sampling parameters in the way that the library is known to understand."""

from __future__ import annotations

from msgspec import structs

from rkllm_twisted.values import RKLLMSamplingParam


def greedy(sampling: RKLLMSamplingParam) -> RKLLMSamplingParam:
    """The same, with a temperature of 0 said by ``top_k`` 1.

    The manual calls 0 greedy (1.3.0, section 3.2.2); what exactly 0 does alone is not known, and those who measured
    avoid it (dmmdea/offload-harness, 1.3.1).
    """
    return sampling if sampling.temperature > 0 else structs.replace(sampling, top_k=1, top_p=1.0, temperature=1.0)

"""What libraries of each kind export, and what is found of them."""

from __future__ import annotations

from rkllm_twisted.backends.rkllm.detection import Evidence, Finding

BASE = ("rkllm_init", "rkllm_run", "rkllm_destroy", "rkllm_abort")
FROM_1_1 = (*BASE, "rkllm_run_async")
FROM_1_2_0 = (*FROM_1_1, "rkllm_set_chat_template")
FROM_1_2_1 = (*FROM_1_2_0, "rkllm_set_function_tools", "rkllm_get_kv_cache_size", "rkllm_set_cross_attn_params")
"""The functions that tell one kind from the one before it."""


def evidence(finding: Finding, source: str) -> Evidence:
    """What one source said."""
    return next(each for each in finding.evidence if each.source == source)

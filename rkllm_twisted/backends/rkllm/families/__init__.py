"""The families of ``librkllmrt.so``: releases whose structs and functions have the same binary interface.

The layouts are in the generated modules (`declarations`); what a family can do besides is here.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rkllm_twisted.backends.rkllm.families.declarations import moduleOf
from rkllm_twisted.values import Capability


@dataclass(frozen=True)
class Family:
    """Releases with one binary interface.

    Attributes:
        key: Its name, the oldest of its releases or a part of that.
        releases: Those that are known, the oldest first.
        capabilities: What a runtime of this family can do, with our own token limit for a run where it has none.
    """

    key: str
    releases: tuple[str, ...]
    capabilities: frozenset[Capability]

    @cached_property
    def ffi(self) -> Any:
        """The cffi types. Each family has its own, so that several can be used in one process."""
        return importlib.import_module(f"{__name__}.{moduleOf(self.key)}").ffi

    @property
    def takesSampling(self) -> bool:
        """Whether a run can be told its sampling and its token limit (``RKLLMInferParam`` of 1.3)."""
        return Capability.SAMPLING_PER_RUN in self.capabilities

    @property
    def holdsSeveral(self) -> bool:
        """Whether one process can load several models: from 1.2.2 on, before that the second gave garbage (issue 367).

        1.2.1 itself is in the family of 1.2.2 and not told from it.
        """
        return self.hasField("RKLLMExtendParam", "n_batch")

    @property
    def releasesBuffers(self) -> bool:
        """Whether the result callback frees the tensors that it was given by returning 2 (from 1.3 on)."""
        return self.hasField("RKLLMCallback", "result_callback")

    def hasField(self, struct: str, field: str) -> bool:
        """Whether there is such a field, or such a struct at all."""
        try:
            return field in dict(self.ffi.typeof(struct).fields)
        except self.ffi.error:
            return False


_FROM_1_1 = {
    Capability.PROMPT_INPUT,
    Capability.TOKEN_INPUT,
    Capability.EMBED_INPUT,
    Capability.MULTIMODAL_INPUT,
    Capability.GET_LAST_HIDDEN_LAYER,
    Capability.LORA,
    Capability.PROMPT_CACHE,
    Capability.MAX_NEW_TOKENS_PER_RUN,
}
_FROM_1_2_0 = _FROM_1_1 | {
    Capability.GET_LOGITS,
    Capability.KEEP_HISTORY,
    Capability.CLEAR_KV_CACHE,
    Capability.CHAT_TEMPLATE,
}
_FROM_1_2_1 = _FROM_1_2_0 | {
    Capability.KV_CACHE_SIZE,
    Capability.FUNCTION_TOOLS,
    Capability.CROSS_ATTENTION,
    Capability.BATCHES,
}
_FROM_1_3 = _FROM_1_2_1 | {Capability.SAMPLING_PER_RUN}

FAMILIES: dict[str, Family] = {
    key: Family(key, releases, frozenset(capabilities))
    for key, releases, capabilities in (
        ("1.1", ("1.1.0", "1.1.1", "1.1.2", "1.1.3", "1.1.4"), _FROM_1_1),
        ("1.2.0", ("1.2.0",), _FROM_1_2_0),
        ("1.2.1b1", ("1.2.1b1",), _FROM_1_2_0),
        ("1.2.1", ("1.2.1", "1.2.2", "1.2.3"), _FROM_1_2_1),
        ("1.3", ("1.3.0",), _FROM_1_3),
        ("1.3.1", ("1.3.1",), _FROM_1_3),
    )
}
"""Every family that can be used, by its key, from the oldest to the newest."""

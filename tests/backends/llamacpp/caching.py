"""Prompt caches: a prompt, runs that save its cache, and how much of it is computed again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rkllm_twisted.interfaces import IRuntimeModel
from rkllm_twisted.values import RKLLMInferParam, RKLLMPromptCacheParam
from tests.backends.llamacpp.asking import IDS, tokenInput
from tests.backends.llamacpp.running import greedy
from tests.backends.runs import Run

LENGTH = 150
PROMPT = IDS[:LENGTH]


def saving(path: Path | str, **fields: Any) -> RKLLMInferParam:
    """Parameters of a run that saves its prompt's cache."""
    param = RKLLMPromptCacheParam(save_prompt_cache=1, prompt_cache_path=str(path))
    return greedy(max_new_tokens=4, prompt_cache_params=param, **fields)


def prefilled(model: IRuntimeModel, prompt: list[int] = PROMPT, **fields: Any) -> int:
    """How many places a run computes of its prompt."""
    return Run(model, tokenInput(prompt), greedy(max_new_tokens=1, **fields)).perf.prefill_tokens


def forgetful(model: IRuntimeModel) -> IRuntimeModel:
    """The same model, which has forgotten what it has computed."""
    model.clearKVCache(False, None)
    return model

"""What is asked of a model in ways other than a prompt, and the rows of numbers in what it answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from rkllm_twisted.values import (
    InferMode,
    InputType,
    RKLLMEmbedInput,
    RKLLMInferParam,
    RKLLMInput,
    RKLLMMultiModalInput,
    RKLLMResult,
    RKLLMTokenInput,
)
from tests.backends.llamacpp.running import GREEDY, greedy
from tests.backends.runs import Run
from tests.tiny_model import WIDTH

IDS = [5 + place * 7 % 250 for place in range(400)]
"""Tokens of tiny models, none of them special; no two of 250 in a row are the same."""


def tokenInput(ids: Iterable[int], count: int | None = None) -> RKLLMInput:
    """Token ids; ``count`` is their ``n_tokens``, by default the right one."""
    ids = [int(token) for token in ids]
    given = RKLLMTokenInput(input_ids=ids, n_tokens=len(ids) if count is None else count)
    return RKLLMInput(input_type=InputType.RKLLM_INPUT_TOKEN, token_input=given)


def textInput(prompt: str, **fields: Any) -> RKLLMInput:
    """A prompt that the model is to think about, unless the fields say otherwise."""
    return RKLLMInput(prompt_input=prompt, **{"enable_thinking": True, **fields})


def embedInput(rows: Any, count: int | None = None) -> RKLLMInput:
    """Rows of embeddings; ``count`` is their ``n_tokens``, by default the right one."""
    given = RKLLMEmbedInput(embed=numbers(rows), n_tokens=len(rows) if count is None else count)
    return RKLLMInput(input_type=InputType.RKLLM_INPUT_EMBED, embed_input=given)


def imageInput(prompt: str, **fields: Any) -> RKLLMInput:
    """A prompt with images, given by the fields of ``RKLLMMultiModalInput``."""
    given = RKLLMMultiModalInput(prompt=prompt, **fields)
    return RKLLMInput(input_type=InputType.RKLLM_INPUT_MULTIMODAL, multimodal_input=given)


def numbers(rows: Any) -> list[float]:
    """Rows one after the other."""
    return [float(number) for number in np.asarray(rows, np.float64).reshape(-1)]


def someRows(count: int, seed: int = 0) -> np.ndarray:
    """Rows of embeddings of tiny models that are those of no token."""
    return np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)


def someTokens(count: int, seed: int = 0) -> list[int]:
    """Tokens of tiny models, none of them special."""
    return [int(token) for token in np.random.default_rng(seed).integers(5, 261, count)]


def keeping(count: int = 4, **fields: Any) -> RKLLMInferParam:
    """A greedy run of so many tokens that keeps its history."""
    return greedy(max_new_tokens=count, keep_history=1, **fields)


def logitsOf(**fields: Any) -> RKLLMInferParam:
    """A greedy run that gives logits."""
    return RKLLMInferParam(mode=InferMode.RKLLM_INFER_GET_LOGITS, sampling_params=GREEDY, **fields)


def hiddenOf(**fields: Any) -> RKLLMInferParam:
    """A run that gives hidden states."""
    return RKLLMInferParam(mode=InferMode.RKLLM_INFER_GET_LAST_HIDDEN_LAYER, **fields)


def logitRows(result: RKLLMResult) -> np.ndarray:
    """The logits of a result, ``num_tokens`` × ``vocab_size``."""
    given = result.logits
    return np.frombuffer(given.logits or b"", np.float32).reshape(given.num_tokens, given.vocab_size)


def hiddenRows(result: RKLLMResult) -> np.ndarray:
    """The hidden states of a result, ``num_tokens`` × ``embd_size``."""
    given = result.last_hidden_layer
    return np.frombuffer(given.hidden_states or b"", np.float32).reshape(given.num_tokens, given.embd_size)


def said(run: Run) -> list[int]:
    """The tokens of a run, without what ends a text that was cut inside a character."""
    return [token for token in run.tokens if token >= 0]

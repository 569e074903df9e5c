"""Whatever is done to a model, and whatever goes wrong: the KV cache holds what is said of it, and answers fit it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from rkllm_twisted.errors import RuntimeCallFailed
from rkllm_twisted.values import (
    InferMode,
    RKLLMLoraAdapter,
    RKLLMLoraParam,
    RKLLMPromptCacheParam,
)
from tests.backends.llamacpp.asking import tokenInput
from tests.backends.llamacpp.rigged import CACHES, Rigged
from tests.backends.llamacpp.running import greedy
from tests.backends.runs import Run
from tests.tiny_model import writeAdapter

RANDOM = {"style": "random"}
LENGTH, KEEP = 150, 3
STEMS = [[5 + place * step % 250 for place in range(140)] for step in (7, 11)]
TOLERANCE = 0.25
"""Logits of places computed in other blocks differ by 0.03 of 8.6 at most (measured); those of other places by some."""

TROUBLES = {
    "abort": lambda model: lambda compute: model.abort() or compute(),
    "failure": lambda model: lambda compute: -3,
    "late failure": lambda model: lambda compute: (compute() and -3) or -3,
}


class Model(RuleBasedStateMachine):
    """A model, and what is known of its only sequence.

    Attributes:
        places: What it must hold; None where only its beginning is known.
        isHistory: Whether the next run that keeps its history goes on behind it.
        isExact: Whether all of it was computed with all that comes before it.
    """

    def __init__(self, cache, load, adapter, directory):
        super().__init__()
        self.rigged = Rigged(cache)
        self.model = load(RANDOM, self.rigged.runtime, max_context_len=LENGTH, n_keep=KEEP)
        self.fresh = load(RANDOM)
        for model in (self.model, self.fresh):
            model.loadLora(RKLLMLoraAdapter(lora_adapter_path=str(adapter), lora_adapter_name="a", scale=0.5))
        self.sequence = self.model._sequences[0]
        self.path = directory / "prompt.cache"
        self.path.unlink(missing_ok=True)
        self.places = []
        self.isHistory, self.isExact = False, True

    def teardown(self):
        self.model.destroy()
        self.fresh.destroy()

    @rule(
        stem=st.sampled_from(STEMS),
        length=st.integers(1, 139),
        tail=st.lists(st.integers(5, 200), max_size=3),
        count=st.integers(1, 12),
        keeps=st.booleans(),
        name=st.sampled_from([None, None, "a"]),
        saves=st.booleans(),
        trouble=st.sampled_from([None, None, *TROUBLES]),
        at=st.integers(1, 9),
    )
    def run(self, stem, length, tail, count, keeps, name, saves, trouble, at):
        prompt, before = [*stem[:length], *tail], list(self.sequence.places) if keeps and self.isHistory else []
        continues = keeps and self.isHistory
        param = greedy(
            max_new_tokens=count,
            keep_history=int(keeps),
            lora_params=name and RKLLMLoraParam(lora_adapter_name=name),
            prompt_cache_params=RKLLMPromptCacheParam(save_prompt_cache=int(saves), prompt_cache_path=str(self.path)),
        )
        if trouble:
            self.rigged.atDecode(at, TROUBLES[trouble](self.model))
        seen = []
        try:
            Run(self.model, tokenInput(prompt), param, lambda result, state: seen.append(result.token_id))
            failed, answer = False, [token for token in seen[:-1] if token >= 0]  # the last is FINISH
        except RuntimeCallFailed:
            failed, answer = True, seen
        self.rigged.answers.pop("llama_decode", None)
        isDropped = len(before) + len(prompt) + max(1, len(answer)) > LENGTH
        self.isExact = (self.isExact or not continues) and not isDropped
        if failed:
            self.places, self.isHistory = (before, continues) if continues or (answer and keeps) else (None, False)
        elif not answer:
            self.places, self.isHistory = (before, True) if continues else (None, False)
        else:
            self.places, self.isHistory = [*before, *prompt, *answer], keeps
            if self.isExact:
                self.check(name, answer)
        if isDropped:
            self.places = None
            self.isHistory = self.isHistory and bool(self.sequence.places)

    def check(self, name, answer):
        """The answer is what a model says that has computed all these places in one go."""
        places = list(self.sequence.places)
        chosen = name and RKLLMLoraParam(lora_adapter_name=name)
        param = greedy(max_new_tokens=1, mode=InferMode.RKLLM_INFER_GET_LOGITS, lora_params=chosen)
        logits = Run(self.fresh, tokenInput(places), param).results[0].logits
        rows = np.frombuffer(logits.logits, np.float32).reshape(logits.num_tokens, logits.vocab_size)
        for index in range(len(places) - len(answer), len(places)):
            assert rows[index - 1][places[index]] > rows[index - 1].max() - TOLERANCE

    @rule()
    def clear(self):
        self.model.clearKVCache(False, None)
        self.places, self.isHistory, self.isExact = [], False, True

    @precondition(lambda self: self.sequence.computed)
    @rule(data=st.data())
    def clearRange(self, data):
        start = data.draw(st.integers(0, self.sequence.computed - 1))
        end = data.draw(st.integers(start + 1, self.sequence.computed))
        left = list(self.sequence.places)
        isLast = end == self.sequence.computed
        self.model.clearKVCache(False, [(start, end)])
        self.places = left[:start] if isLast else [*left[:start], *left[end:]]
        self.isHistory = self.isHistory and bool(self.places)
        self.isExact = self.isExact and isLast

    @precondition(lambda self: self.path.exists())
    @rule()
    def loadCache(self):
        self.model.loadPromptCache(str(self.path))

    @rule()
    def releaseCache(self):
        self.model.releasePromptCache()

    @invariant()
    def holdsWhatItSays(self):
        computed = self.sequence.computed
        assert self.model.getKVCacheSize() == [computed] == [self.model._context.count(0)]
        assert computed <= len(self.sequence.places) <= LENGTH + 1
        assert self.places is None or self.sequence.places == self.places
        assert self.sequence.isHistory == self.isHistory


@pytest.mark.parametrize("cache", CACHES)
def test_kv_cache_and_answers_fit_what_was_said(load, tmp_path, cache):
    adapter = writeAdapter(tmp_path / "lora.gguf")
    run_state_machine_as_test(
        lambda: Model(cache, load, adapter, tmp_path),
        settings=settings(
            max_examples=40, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )

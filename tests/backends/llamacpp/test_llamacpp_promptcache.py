"""Prompt caches that are loaded: what they save, for whom, and that none is trusted unread."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec
import pytest

from rkllm_twisted.backends.llamacpp import promptcache
from rkllm_twisted.backends.llamacpp.promptcache import DIGEST, MAGIC, BadCache, fingerprint
from rkllm_twisted.errors import RuntimeCallFailed
from rkllm_twisted.values import (
    InferMode,
    RKLLMExtendParam,
)
from tests.backends.llamacpp.adapting import chosen, loadAdapter
from tests.backends.llamacpp.asking import embedInput, said, someRows, tokenInput
from tests.backends.llamacpp.caching import LENGTH, PROMPT, forgetful, prefilled, saving
from tests.backends.llamacpp.running import greedy
from tests.backends.runs import Run

RANDOM = {"style": "random"}


@pytest.fixture
def refused(load):
    """A function that gives the reason for which a file is refused."""
    model = load(RANDOM)

    def refused(path):
        with pytest.raises(RuntimeCallFailed) as caught:
            model.loadPromptCache(str(path))
        assert caught.value.data == {"function": "rkllm_load_prompt_cache", "status": -1}
        assert str(path) not in caught.value.detail
        assert prefilled(forgetful(model)) == LENGTH
        return caught.value.detail

    return refused


class TestLoading:
    def test_saves_the_computation_of_its_prompt(self, load, saved):
        model = load(RANDOM)
        model.loadPromptCache(str(saved))
        answer = Run(model, tokenInput(PROMPT), greedy(max_new_tokens=20))
        assert answer.perf.prefill_tokens == 1
        assert answer.tokens == Run(load(RANDOM), tokenInput(PROMPT), greedy(max_new_tokens=20)).tokens
        assert model.getKVCacheSize() == [LENGTH + 19] == [model._context.count(0)]

    @pytest.mark.parametrize(
        ("prompt", "computed"),
        [
            ([*PROMPT, 9, 9, 9], 3),
            ([*PROMPT[:101], 9, 9], 2),
            (PROMPT[:70], 1),
            ([9, *PROMPT], LENGTH + 1),
            (PROMPT[:1], 1),
        ],
    )
    def test_serves_prompts_that_begin_alike_to_the_place(self, load, saved, prompt, computed):
        model = load(RANDOM)
        model.loadPromptCache(str(saved))
        answer = Run(model, tokenInput(prompt), greedy(max_new_tokens=10))
        assert answer.perf.prefill_tokens == computed
        assert answer.tokens == Run(load(RANDOM), tokenInput(prompt), greedy(max_new_tokens=10)).tokens
        assert model.getKVCacheSize() == [len(prompt) + 9] == [model._context.count(0)]

    def test_computes_fewer_places_than_the_last_prompt_would(self, load, saved):
        model = load(RANDOM)
        model.loadPromptCache(str(saved))
        prefilled(model, [*PROMPT[:100], 9])
        assert prefilled(model, [*PROMPT[:101], 8, 8]) == 2

    def test_leaves_a_longer_computation_alone(self, load, saved):
        model = load(RANDOM)
        longer = [*PROMPT, *range(5, 100)]
        prefilled(model, longer)
        model.loadPromptCache(str(saved))
        assert prefilled(model, longer) == len(longer) % 64

    def test_gives_no_rows(self, load, saved):
        model = load(RANDOM)
        model.loadPromptCache(str(saved))
        assert prefilled(model, mode=InferMode.RKLLM_INFER_GET_LOGITS) == LENGTH

    def test_that_was_computed_otherwise_is_gone_when_it_is_released(self, load, cachePath):
        """A history is computed one token after the other; without it a prompt is computed in blocks, to the bit."""
        model = load(RANDOM)
        answer = Run(model, tokenInput(PROMPT[:10]), greedy(max_new_tokens=80, keep_history=1)).tokens[:80]
        Run(model, tokenInput([9, 9]), saving(cachePath, keep_history=1))
        places = [*PROMPT[:10], *answer, 9, 9]
        model = load(RANDOM)
        assert prefilled(model, [*places[:70], 3]) == 71
        model.loadPromptCache(str(cachePath))
        assert prefilled(model, [*places, 7]) == 1
        model.releasePromptCache()
        assert prefilled(model, [*places, 7]) == len(places) + 1

    def test_counts_until_it_is_released(self, load, saved):
        model = load(RANDOM)
        model.loadPromptCache(str(saved))
        assert [prefilled(forgetful(model)) for _ in range(2)] == [1, 1]
        model.releasePromptCache()
        assert prefilled(forgetful(model)) == LENGTH
        model.releasePromptCache()

    def test_takes_the_place_of_another(self, load, saved, cachePath):
        other = cachePath.with_name("other")
        Run(load(RANDOM), tokenInput(PROMPT[5:]), saving(other))
        model = load(RANDOM)
        model.loadPromptCache(str(other))
        model.loadPromptCache(str(saved))
        assert prefilled(forgetful(model)) == 1
        assert prefilled(forgetful(model), PROMPT[5:]) == LENGTH - 5

    def test_that_fails_leaves_the_one_before_it(self, load, saved, tmp_path):
        model = load(RANDOM)
        model.loadPromptCache(str(saved))
        with pytest.raises(RuntimeCallFailed, match="no such file or directory"):
            model.loadPromptCache(str(tmp_path / "none"))
        assert prefilled(model) == 1

    def test_does_not_disturb_a_history(self, load, saved):
        model = load(RANDOM)
        Run(model, tokenInput(PROMPT[:50]), greedy(max_new_tokens=3, keep_history=1))
        model.loadPromptCache(str(saved))
        run = Run(model, tokenInput([9, 9]), greedy(max_new_tokens=3, keep_history=1))
        assert run.perf.prefill_tokens == 3
        assert model.getKVCacheSize() == [50 + 3 + 2 + 2] == [model._context.count(0)]

    def test_serves_the_first_turn_of_a_history(self, load, saved):
        model = load(RANDOM)
        model.loadPromptCache(str(saved))
        assert prefilled(model, keep_history=1) == 1

    def test_serves_several_inputs(self, load, saved):
        model = load(RANDOM, extend_param=RKLLMExtendParam(n_batch=2))
        model.loadPromptCache(str(saved))
        run = Run(model, [tokenInput(PROMPT), tokenInput([9, 9])], greedy(max_new_tokens=8))
        alone = [said(Run(load(RANDOM), tokenInput(ids), greedy(max_new_tokens=8))) for ids in (PROMPT, [9, 9])]
        assert [run.tokensOf(0), run.tokensOf(1)] == alone

    def test_of_rows_of_embeddings(self, load, cachePath):
        rows = embedInput(someRows(70))
        answer = Run(load(RANDOM), rows, saving(cachePath)).tokens
        model = load(RANDOM)
        model.loadPromptCache(str(cachePath))
        run = Run(model, rows, greedy(max_new_tokens=4))
        assert (run.tokens, run.perf.prefill_tokens) == (answer, 1)

    def test_state_that_llama_cpp_refuses_costs_time_only(self, load, saved):
        model = load(RANDOM)
        model.loadPromptCache(str(saved))
        baseline = Run(load(RANDOM), tokenInput(PROMPT), greedy(max_new_tokens=8)).tokens
        model._cache = msgspec.structs.replace(model._cache, state=model._cache.state[:-1000])
        run = Run(model, tokenInput(PROMPT), greedy(max_new_tokens=8))
        assert (run.perf.prefill_tokens, run.tokens) == (LENGTH, baseline)


class TestAdapters:
    """What was computed with one adapter is of no use to another, nor to the base model."""

    @pytest.fixture
    def adapted(self, load, adapters):
        model = load(RANDOM)
        for name, scale in (("one", 1.0), ("same", 1.0), ("half", 0.5)):
            loadAdapter(model, adapters(), name, scale)
        return model

    def test_cache_of_the_base_model(self, adapted, saved):
        adapted.loadPromptCache(str(saved))
        assert prefilled(adapted, **chosen("one")) == LENGTH
        assert prefilled(adapted) == 1

    def test_cache_of_an_adapter(self, adapted, cachePath):
        Run(adapted, tokenInput(PROMPT), saving(cachePath, **chosen("one")))
        adapted.loadPromptCache(str(cachePath))
        assert [prefilled(forgetful(adapted), **chosen(name)) for name in ("one", "same")] == [1, 1]
        assert prefilled(forgetful(adapted), **chosen("half")) == prefilled(forgetful(adapted)) == LENGTH


class TestBadFiles:
    def test_missing(self, refused, tmp_path):
        assert refused(tmp_path / "none") == "no such file or directory"

    def test_directory(self, refused, tmp_path):
        before = len(os.listdir("/proc/self/fd"))
        assert refused(tmp_path) == "is a directory"
        assert len(os.listdir("/proc/self/fd")) == before

    def test_named_pipe_does_not_block(self, refused, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        assert refused(tmp_path / "pipe") == "not a regular file"

    def test_device(self, refused):
        assert refused(Path("/dev/zero")) == "not a regular file"

    @pytest.mark.parametrize("data", [b"", b"RKCACHE", b"RKCACHE0" + bytes(99), b"GGUF" + bytes(99)])
    def test_something_else(self, refused, cachePath, data):
        cachePath.write_bytes(data)
        assert refused(cachePath) == "not a prompt cache, or one of another release"

    def test_model(self, refused, models):
        assert refused(models(**RANDOM)) == "not a prompt cache, or one of another release"

    def test_cut_off(self, refused, saved):
        data = saved.read_bytes()
        described = len(MAGIC) + DIGEST
        for length in (8, 9, described - 1, described, described + 5, described + 8, 1000, len(data) - 1):
            saved.write_bytes(data[:length])
            assert refused(saved) == "damaged: its contents are not what was written"
        saved.write_bytes(data + b"\0")
        assert refused(saved) == "damaged: its contents are not what was written"

    def test_flipped_bits(self, saved):
        """Wherever it is, none goes unnoticed."""
        data = saved.read_bytes()
        for place in [*range(120), *range(120, len(data), len(data) // 50), len(data) - 1]:
            saved.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
            with pytest.raises(BadCache, match="not a prompt cache" if place < len(MAGIC) else "damaged"):
                promptcache.load(str(saved), "any", 1000)

    @pytest.mark.parametrize("body", [b"", b"\1", bytes(8), b"\3" + bytes(7) + b"abc", b"\xff" * 30])
    def test_whole_but_no_description(self, refused, cachePath, body):
        cachePath.write_bytes(MAGIC + hashlib.sha256(body).digest() + body)
        assert refused(cachePath) == "not a prompt cache, though it begins like one"

    def test_of_another_model(self, refused, load, cachePath):
        Run(load({"style": "random", "seed": 1}), tokenInput(PROMPT), saving(cachePath))
        assert refused(cachePath) == "of another model, or of another release of llama.cpp"

    def test_of_the_same_model_elsewhere(self, load, models, saved, tmp_path):
        copy = tmp_path / "copy.gguf"
        copy.write_bytes(models(**RANDOM).read_bytes())
        model = load(copy)
        model.loadPromptCache(str(saved))
        assert prefilled(model) == 1

    def test_too_long(self, load, saved):
        with pytest.raises(RuntimeCallFailed, match="of 150 tokens, the context holds 150 and needs room for one more"):
            load(RANDOM, max_context_len=150).loadPromptCache(str(saved))
        model = load(RANDOM, max_context_len=151)
        model.loadPromptCache(str(saved))
        assert prefilled(model) == 1


class TestFingerprint:
    def test_is_of_the_release(self, models):
        path = str(models(**RANDOM))
        assert fingerprint(path, "1") == fingerprint(path, "1") != fingerprint(path, "2")

    @pytest.mark.parametrize("place", [0, 100_000, -1])
    def test_is_of_the_weights(self, models, tmp_path, place):
        data = bytearray(models(**RANDOM).read_bytes())
        data[place] ^= 1
        (tmp_path / "other.gguf").write_bytes(data)
        assert fingerprint(str(tmp_path / "other.gguf"), "1") != fingerprint(str(models(**RANDOM)), "1")

    def test_is_of_the_length(self, tmp_path):
        prints = set()
        for size in (1 << 30, (1 << 30) + 1):
            with open(tmp_path / "zeros", "wb") as file:
                file.truncate(size)
            prints.add(fingerprint(str(tmp_path / "zeros"), "1"))
        assert len(prints) == 2

    def test_of_a_large_file_reads_little_of_it(self, tmp_path):
        with open(tmp_path / "large", "wb") as file:
            file.truncate(1 << 40)
        assert fingerprint(str(tmp_path / "large"), "1")

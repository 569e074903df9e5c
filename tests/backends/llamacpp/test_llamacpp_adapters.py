"""LoRA adapters: what they change and by how much, and which run has which."""

from __future__ import annotations

import numpy as np
import pytest

from rkllm_twisted.backends.llamacpp.models import PACKAGED
from rkllm_twisted.errors import InvalidParams, RuntimeCallFailed
from rkllm_twisted.values import RKLLMExtendParam
from tests.backends.llamacpp.adapting import EMBEDDING, OUTPUT, QUERY, chosen, loadAdapter, pair, writeTensors
from tests.backends.llamacpp.asking import (
    hiddenOf,
    hiddenRows,
    logitRows,
    logitsOf,
    said,
    someTokens,
    tokenInput,
)
from tests.backends.llamacpp.direct import Direct
from tests.backends.llamacpp.running import greedy
from tests.backends.runs import Run
from tests.tiny_model import WIDTH, tokenOf

RANDOM, CYCLE = {"style": "random"}, {"style": "cycle"}
PROMPT = someTokens(30)


def logits(model, name=None, prompt=PROMPT):
    """The logits of every place of a prompt, with an adapter or without."""
    inferParam = logitsOf(max_new_tokens=1, **({} if name is None else chosen(name)))
    return logitRows(Run(model, tokenInput(prompt), inferParam).results[0])


class TestEffect:
    @pytest.mark.parametrize("scale", [0, 1, 1.0, 2.0, 0.25, -1.0])
    def test_on_logits_is_that_of_llama_cpp(self, load, models, adapters, scale):
        model = load(RANDOM)
        loadAdapter(model, adapters(), scale=scale)
        rows = logits(model, "one")
        with Direct(models(**RANDOM), adapters(), float(scale)) as direct:
            assert np.array_equal(rows, direct.logits(PROMPT))
        assert np.array_equal(rows, logits(model)) == (scale == 0)

    def test_of_scales_is_their_own(self, load, adapters):
        model = load(RANDOM)
        for scale in (1, 1.0, 2.0, -1.0):
            loadAdapter(model, adapters(), repr(scale), scale)
        one, same, two, minus = (logits(model, name) for name in ("1", "1.0", "2.0", "-1.0"))
        assert np.array_equal(one, same)
        for different in (two, minus):
            assert abs(different - one).max() > 1

    def test_on_generated_rows_too(self, load, models, adapters):
        model = load(RANDOM)
        loadAdapter(model, adapters())
        run = Run(model, tokenInput(PROMPT), logitsOf(max_new_tokens=8, **chosen("one")))
        tokens = said(run)
        with Direct(models(**RANDOM), adapters()) as direct:
            assert tokens == direct.greedy(PROMPT, 8)
            expected = direct.logits([*PROMPT, *tokens[:-1]])
        assert np.allclose(np.concatenate([*map(logitRows, run.results)]), expected, atol=0.1)

    def test_on_hidden_states(self, load, models, adapters):
        model = load(RANDOM)
        loadAdapter(model, adapters())
        rows = hiddenRows(Run(model, tokenInput(PROMPT), hiddenOf(**chosen("one"))).results[0])
        with Direct(models(**RANDOM), adapters()) as direct:
            assert np.array_equal(rows, direct.hidden(PROMPT))

    def test_on_text(self, load, adapters):
        model = load(CYCLE)
        loadAdapter(model, adapters(**CYCLE))
        assert Run(model, "x", greedy(max_new_tokens=5)).text == "abcde"
        assert Run(model, "x", greedy(max_new_tokens=5, **chosen("one"))).text == "a .zy"

    @pytest.mark.parametrize("kind", [np.float16, np.float32])
    @pytest.mark.parametrize(
        "tensors",
        [
            pair(QUERY),
            pair(QUERY, rank=1),
            pair(OUTPUT, outer=267),
            {"blk.0.attn_norm.weight": np.ones(WIDTH)},
            {f"{EMBEDDING}.lora_a": np.ones((267, 4)), f"{EMBEDDING}.lora_b": np.ones((WIDTH, 4))},
        ],
        ids=["query", "rank 1", "output", "norm alone", "embedding"],
    )
    def test_of_what_may_be_in_a_file(self, load, models, tmp_path, tensors, kind):
        path = writeTensors(tmp_path / "some.gguf", {name: data.astype(kind) for name, data in tensors.items()})
        model = load(RANDOM)
        loadAdapter(model, path)
        with Direct(models(**RANDOM), path) as direct:
            assert np.array_equal(logits(model, "one"), direct.logits(PROMPT))

    def test_on_the_packaged_model(self, loadPackaged, tmp_path):
        adapter = writeTensors(tmp_path / "some.gguf", pair(QUERY, inner=576, outer=576))
        model = loadPackaged()
        loadAdapter(model, adapter)
        prompt = list(range(1000, 1040))
        run = Run(model, tokenInput(prompt), logitsOf(max_new_tokens=1, **chosen("one")))
        base = Run(model, tokenInput(prompt), logitsOf(max_new_tokens=1))
        with Direct(PACKAGED["smollm2"].path(), adapter) as direct:
            assert np.array_equal(logitRows(run.results[0]), direct.logits(prompt))
        assert abs(logitRows(run.results[0]) - logitRows(base.results[0])).max() > 1


class TestChoice:
    def test_is_of_each_run(self, load, models, adapters):
        model = load(RANDOM)
        loadAdapter(model, adapters(), "one")
        loadAdapter(model, adapters(seed=1), "two")
        expected = {}
        for name, adapter in ((None, None), ("one", adapters()), ("two", adapters(seed=1))):
            with Direct(models(**RANDOM), adapter) as direct:
                expected[name] = direct.logits(PROMPT)
        for name in (None, "one", "two", "one", None, None, "two", None):
            assert np.array_equal(logits(model, name), expected[name]), name

    def test_of_one_loaded_after_runs(self, load, adapters):
        model = load(CYCLE)
        assert Run(model, "x", greedy(max_new_tokens=3)).text == "abc"
        loadAdapter(model, adapters(**CYCLE))
        assert Run(model, "x", greedy(max_new_tokens=3, **chosen("one"))).text == "a ."

    def test_never_reuses_what_another_computed(self, load, adapters):
        model = load(RANDOM)
        loadAdapter(model, adapters(), "one")
        loadAdapter(model, adapters(), "again")
        loadAdapter(model, adapters(), "stronger", 2.0)
        prompt = tokenInput(someTokens(150))

        def prefilled(name):
            return Run(model, prompt, greedy(max_new_tokens=2, **({} if name is None else chosen(name))))

        runs = [prefilled(name) for name in (None, None, "one", "one", "again", "stronger", "stronger", None)]
        assert [run.perf.prefill_tokens for run in runs] == [150, 22, 150, 22, 22, 150, 22, 150]
        base, _, one, same, again, stronger, *_, last = [run.tokens for run in runs]
        assert base == last != one == same == again != stronger

    def test_in_a_history_holds_for_all_of_it(self, load, models, adapters):
        model = load(RANDOM)
        loadAdapter(model, adapters())
        first = said(Run(model, tokenInput(PROMPT), greedy(max_new_tokens=5, keep_history=1)))
        more = someTokens(7, seed=2)
        run = Run(model, tokenInput(more), logitsOf(max_new_tokens=1, keep_history=1, **chosen("one")))
        with Direct(models(**RANDOM), adapters()) as direct:
            expected = direct.logits([*PROMPT, *first, *more])[-len(more) :]
        assert np.array_equal(logitRows(run.results[0]), expected)
        assert run.perf.prefill_tokens == len(PROMPT) + 5 + len(more)

    def test_holds_for_every_input_of_a_batch(self, load, adapters):
        model = load(CYCLE, extend_param=RKLLMExtendParam(n_batch=2))
        loadAdapter(model, adapters(**CYCLE))
        inputs = [tokenInput([tokenOf(ord(letter))]) for letter in "xc"]
        run = Run(model, inputs, greedy(max_new_tokens=3))
        assert (run.textOf(0), run.textOf(1)) == ("yz.", "def")
        run = Run(model, inputs, greedy(max_new_tokens=3, **chosen("one")))
        assert (run.textOf(0), run.textOf(1)) == ("wvu", "ba ")


class TestNames:
    def test_twice(self, load, models, adapters):
        model = load(RANDOM)
        loadAdapter(model, adapters())
        with pytest.raises(InvalidParams) as caught:
            loadAdapter(model, adapters(seed=1))
        assert caught.value.detail == (
            "$.lora_adapter.lora_adapter_name: expected a name that is not in use, got 'one'"
        )
        with Direct(models(**RANDOM), adapters()) as direct:
            assert np.array_equal(logits(model, "one"), direct.logits(PROMPT))

    def test_unknown(self, load, adapters):
        model = load(RANDOM)
        with pytest.raises(InvalidParams) as caught:
            Run(model, "x", greedy(**chosen("one")))
        assert caught.value.detail == (
            "$.rkllm_infer_params.lora_params.lora_adapter_name: expected the name of a loaded adapter "
            "(none is loaded), got 'one'"
        )
        for name in ("french", "german"):
            loadAdapter(model, adapters(), name)
        with pytest.raises(InvalidParams) as caught:
            Run(model, "x", greedy(**chosen("germen")))
        assert caught.value.detail.endswith("(french, german), got 'germen', the nearest known one is german")

    def test_unknown_starts_nothing(self, recorded):
        model, c = recorded()
        Run(model, tokenInput(PROMPT), greedy(max_new_tokens=2, keep_history=1))
        size, decodes = model.getKVCacheSize(), c.count("llama_decode")
        with pytest.raises(InvalidParams):
            Run(model, "x", greedy(keep_history=1, **chosen("one")))
        assert (model.getKVCacheSize(), c.count("llama_decode")) == (size, decodes)

    def test_is_free_after_a_file_was_refused(self, load, adapters, tmp_path):
        model = load(CYCLE)
        with pytest.raises(RuntimeCallFailed):
            loadAdapter(model, tmp_path / "none.gguf")
        with pytest.raises(InvalidParams):
            Run(model, "x", greedy(**chosen("one")))
        loadAdapter(model, adapters(**CYCLE))
        assert Run(model, "x", greedy(max_new_tokens=3, **chosen("one"))).text == "a ."

    def test_is_another_one_for_another_model(self, load, adapters):
        first, second = load(CYCLE), load(CYCLE)
        loadAdapter(first, adapters(**CYCLE))
        with pytest.raises(InvalidParams):
            Run(second, "x", greedy(**chosen("one")))


class TestMemory:
    def test_is_freed_with_the_model(self, recorded, adapters):
        """llama.cpp frees a model's adapters with it; a call that comes later must not reach them."""
        model, c = recorded()
        loadAdapter(model, adapters())
        model.destroy()
        assert c.count("llama_model_free") == 1
        before = c.count("llama_adapter_lora_init")
        with pytest.raises(TypeError):
            loadAdapter(model, adapters(), "two")
        assert c.count("llama_adapter_lora_init") == before + 1  # refused by cffi: there is no model
        with pytest.raises(InvalidParams):
            Run(model, tokenInput(PROMPT), greedy(**chosen("one")))
        assert not c.count("llama_decode")

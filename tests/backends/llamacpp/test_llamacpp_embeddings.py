"""Rows of embeddings as input, alone and beside tokens; and models that cannot take them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rkllm_twisted.backends.llamacpp.context import BLOCK
from rkllm_twisted.backends.llamacpp.models import PACKAGED
from rkllm_twisted.errors import InvalidParams, NotSupported, PromptTooLong, ResultTooLarge
from rkllm_twisted.values import (
    Delivery,
    InputType,
    RKLLMEmbedInput,
    RKLLMExtendParam,
    RKLLMInput,
)
from tests.backends.llamacpp.asking import (
    embedInput,
    hiddenOf,
    hiddenRows,
    imageInput,
    logitRows,
    logitsOf,
    said,
    someRows,
    someTokens,
    tokenInput,
)
from tests.backends.llamacpp.direct import Direct, weightsOf
from tests.backends.llamacpp.running import greedy
from tests.backends.llamacpp.variants import writeGemma3, writeQwen2VL
from tests.backends.runs import Run
from tests.tiny_model import WIDTH

RANDOM = {"style": "random"}
PLAIN = {"style": "random", "chatTemplate": None}
TOLERANCE = 0.1  # as for the modes
MAX_FLOAT = float(np.finfo(np.float32).max)


class TestRows:
    def test_of_tokens_say_what_the_tokens_say(self, load, embeddings):
        model = load(RANDOM)
        for count in (1, 40, 150):
            ids = someTokens(count)
            tokens, rows = (
                Run(model, given, logitsOf(max_new_tokens=8))
                for given in (tokenInput(ids), embedInput(embeddings[ids]))
            )
            assert rows.tokens == tokens.tokens
            assert np.array_equal(logitRows(rows.results[0]), logitRows(tokens.results[0]))
            assert rows.perf.prefill_tokens == count

    def test_of_tokens_of_the_packaged_model(self, loadPackaged):
        model = loadPackaged()
        text = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
        ids = model._loaded.vocabulary.tokenize(text, 2048)
        table = weightsOf(PACKAGED["smollm2"].path(), "token_embd.weight")
        tokens, rows = (
            Run(model, given, greedy(max_new_tokens=12)) for given in (tokenInput(ids), embedInput(table[ids]))
        )
        assert rows.text == tokens.text
        assert len(rows.text) > 20

    def test_of_no_token_are_computed_as_llama_cpp_computes_them(self, load, direct):
        model = load(RANDOM)
        for count in (1, BLOCK, 100):
            rows, sizes = someRows(count), [BLOCK, count - BLOCK] if count > BLOCK else [count]
            run = Run(model, embedInput(rows), logitsOf(max_new_tokens=1))
            assert np.array_equal(logitRows(run.results[0]), direct.logits(rows, sizes))
            run = Run(model, embedInput(rows), hiddenOf())
            assert np.array_equal(hiddenRows(run.results[0]), direct.hidden(rows, sizes))

    def test_are_taken_as_they_are(self, load):
        """No template, no begin token."""
        for model in (load(RANDOM), load({**PLAIN, "addBegin": True})):
            assert Run(model, embedInput(someRows(3)), greedy(max_new_tokens=1)).perf.prefill_tokens == 3

    def test_of_another_width(self, recorded):
        model, c = recorded()
        for given, count, expected in (
            (2 * WIDTH + 1, 2, 2 * WIDTH),
            (2 * WIDTH - 1, 2, 2 * WIDTH),
            (2 * WIDTH, 1, WIDTH),
            (2 * WIDTH, 3, 3 * WIDTH),
            (0, 1, WIDTH),
            (WIDTH, 2**31 - 1, (2**31 - 1) * WIDTH),
        ):
            with pytest.raises(InvalidParams) as caught:
                Run(model, embed([0.0] * given, count))
            assert caught.value.detail == (
                f"$.rkllm_input.embed_input.embed: expected n_tokens × {WIDTH}, the model's embedding size, "
                f"which is {expected} numbers, got {given}"
            )
        assert not c.calls

    def test_none_at_all(self, recorded):
        model, c = recorded()
        with pytest.raises(InvalidParams, match=r"\$\.rkllm_input\.embed_input: expected at least one token"):
            Run(model, embed([], 0))
        with pytest.raises(InvalidParams, match=r"\$\.rkllm_input\.embed_input: expected a value"):
            Run(model, RKLLMInput(input_type=InputType.RKLLM_INPUT_EMBED))
        assert not c.calls

    def test_of_what_is_no_number_of_c(self, recorded):
        model, c = recorded()
        for wrong in (math.nan, math.inf, -math.inf, 1e39, -3.5e38, 10**400):
            for place in (0, 70, 2 * WIDTH - 1):
                given = [0.0] * (2 * WIDTH)
                given[place] = wrong
                with pytest.raises(InvalidParams) as caught:
                    Run(model, embed(given, 2))
                assert caught.value.detail.startswith(
                    f"$.rkllm_input.embed_input.embed[{place}]: expected a number that a float of C can hold, got "
                )
        assert not c.calls

    def test_of_the_largest_numbers_end_no_process_and_give_numbers(self, load):
        model = load(RANDOM)
        baseline = Run(model, "hello", greedy(max_new_tokens=5)).tokens
        for number in (MAX_FLOAT, -MAX_FLOAT, 1e19, 1e-45, 0, 1):
            run = Run(model, embed([number] * WIDTH * 3, 3), logitsOf(max_new_tokens=2))
            assert all(np.isfinite(logitRows(result)).all() for result in run.results)
            Run(model, embed([number] * WIDTH * 3, 3))  # sampled
        assert Run(model, "hello", greedy(max_new_tokens=5)).tokens == baseline

    def test_without_room_for_one_token(self, load):
        model = load(RANDOM, max_context_len=32)
        with pytest.raises(PromptTooLong) as caught:
            Run(model, embedInput(someRows(32)))
        assert caught.value.data == {"tokens": 32, "limit": 32}
        assert Run(model, embedInput(someRows(31)), greedy(max_new_tokens=1)).reason == "length"

    def test_whose_tensors_would_be_too_long(self, recorded):
        model, c = recorded()
        with pytest.raises(ResultTooLarge):
            Run(model, embedInput(someRows(3)), hiddenOf(), delivery=Delivery(maxReply=3 * WIDTH * 2 - 1))
        assert not c.calls


def embed(values, count):
    given = RKLLMEmbedInput(embed=values, n_tokens=count)
    return RKLLMInput(input_type=InputType.RKLLM_INPUT_EMBED, embed_input=given)


class TestMixed:
    def test_with_tokens_across_blocks(self, load, direct, embeddings):
        """A history of many short turns of both kinds is computed as if it had been said at once."""
        model = load(RANDOM)
        everything, sizes = [], []
        for turn, count in enumerate((30, 50, 7, 1, 64, 20, 1, 1)):
            ids, rows = someTokens(count, seed=turn), someRows(count, seed=turn)
            given = embedInput(rows) if turn % 2 else tokenInput(ids)
            run = Run(model, given, logitsOf(max_new_tokens=2, keep_history=1))
            everything.extend(rows if turn % 2 else embeddings[ids])
            sizes.append(count)
            expected = direct.logits(np.stack(everything), [len(everything)])[-count:]
            assert np.allclose(logitRows(run.results[0]), expected, rtol=0, atol=TOLERANCE), turn
            everything.extend(embeddings[said(run)])
        assert model.getKVCacheSize() == [len(everything) - 1]

    def test_in_a_history_go_on_behind_it(self, load, direct, embeddings):
        model = load(RANDOM)
        before, rows, after = someTokens(10), someRows(5), someTokens(4, seed=3)
        first = said(Run(model, tokenInput(before), greedy(max_new_tokens=3, keep_history=1)))
        second = Run(model, embedInput(rows), greedy(max_new_tokens=3, keep_history=1))
        assert second.perf.prefill_tokens == 5 + 1
        third = Run(model, tokenInput(after), logitsOf(max_new_tokens=1, keep_history=1))
        places = np.concatenate([embeddings[[*before, *first]], rows, embeddings[[*said(second), *after]]])
        expected = direct.logits(places)[-len(after) :]
        assert np.allclose(logitRows(third.results[0]), expected, rtol=0, atol=TOLERANCE)

    def test_are_undone_with_a_turn_that_failed(self, load):
        model = load(RANDOM)
        Run(model, tokenInput(someTokens(10)), greedy(max_new_tokens=3, keep_history=1))
        size = model.getKVCacheSize()
        with pytest.raises(InvalidParams):
            Run(model, embed([math.nan] * WIDTH, 1), greedy(keep_history=1))
        assert model.getKVCacheSize() == size

    def test_are_reused_as_a_prefix(self, load):
        model = load(RANDOM)
        rows = someRows(200)
        first, again = (Run(model, embedInput(rows), greedy(max_new_tokens=6)) for _ in range(2))
        assert (first.perf.prefill_tokens, again.perf.prefill_tokens) == (200, 200 - 3 * BLOCK)
        assert first.tokens == again.tokens
        for changed, prefilled in ((199, 8), (130, 72), (64, 136), (63, 200), (0, 200)):
            Run(model, embedInput(rows), greedy(max_new_tokens=1))
            other = rows.copy()
            other[changed, 5] += 1
            run = Run(model, embedInput(other), greedy(max_new_tokens=6))
            assert run.perf.prefill_tokens == prefilled
            alone = load(RANDOM)
            assert run.tokens == Run(alone, embedInput(other), greedy(max_new_tokens=6)).tokens

    def test_that_are_equal_to_tokens_are_not_taken_for_them(self, load, embeddings):
        model = load(RANDOM)
        ids = someTokens(150)
        Run(model, tokenInput(ids), greedy(max_new_tokens=1))
        assert Run(model, embedInput(embeddings[ids]), greedy(max_new_tokens=1)).perf.prefill_tokens == 150

    def test_in_a_batch_stand_beside_tokens(self, load, embeddings):
        ids, rows = someTokens(80), someRows(70)
        model = load(RANDOM)
        alone = [Run(model, given, greedy(max_new_tokens=6)).tokens for given in (tokenInput(ids), embedInput(rows))]
        both = load(RANDOM, extend_param=RKLLMExtendParam(n_batch=2))
        run = Run(both, [tokenInput(ids), embedInput(rows)], greedy(max_new_tokens=6))
        assert [[t for t in tokens if t >= 0] for tokens in alone] == [run.tokensOf(0), run.tokensOf(1)]


class TestModels:
    """Models that cannot take rows of embeddings; they still take text."""

    def refused(self, model, input):
        with pytest.raises(NotSupported) as caught:
            Run(model, input)
        assert Run(model, "hello", greedy(max_new_tokens=3)).reason == "length"
        return caught.value.detail, caught.value.data["needs"]

    def test_of_several_dimensions_of_positions(self, load, models, tmp_path):
        model = load(writeQwen2VL(models(**RANDOM), tmp_path / "vl.gguf"))
        reason = "this model cannot take it: its positions have several dimensions (M-RoPE)"
        assert self.refused(model, embedInput(someRows(1))) == (reason, "embed_input")
        image = imageInput("<image>", image_embed=[0.0] * WIDTH, n_image_tokens=1)
        assert self.refused(model, image) == (reason, "multimodal_input")

    def test_that_read_an_image_in_both_directions(self, load, models, tmp_path):
        model = load(writeGemma3(models(**RANDOM), tmp_path / "gemma.gguf"))
        image = imageInput("<image>", image_embed=[0.0] * WIDTH, n_image_tokens=1)
        assert self.refused(model, image) == (
            "this model cannot take it: the rows of its images look at each other in both directions",
            "multimodal_input",
        )
        run = Run(model, embedInput(someRows(5)), logitsOf(max_new_tokens=1))
        with Direct(model._param.model_path) as direct:
            assert np.array_equal(logitRows(run.results[0]), direct.logits(someRows(5)))

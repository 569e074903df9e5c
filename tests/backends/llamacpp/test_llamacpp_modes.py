"""Logits and hidden states: the same numbers that llama.cpp gives when it is driven by hand, row by row.

What is computed in batches of the same shapes is compared to the bit. Else within the tolerance that batch shapes cost:
0.03 of 8.6 for a tiny model in 16-bit floats; 2.0 at most and 0.2 on average for SmolLM2 (measured).
"""

from __future__ import annotations

import numpy as np
import pytest
from msgspec import structs

from rkllm_twisted.backends.llamacpp.context import BLOCK
from rkllm_twisted.backends.llamacpp.library import theLibrary
from rkllm_twisted.backends.llamacpp.models import PACKAGED
from rkllm_twisted.errors import ResultTooLarge, RuntimeCallFailed
from rkllm_twisted.values import NO_HIDDEN_STATES, NO_LOGITS, CallState, Delivery, RKLLMSamplingParam
from tests.backends.llamacpp.asking import (
    hiddenOf,
    hiddenRows,
    logitRows,
    logitsOf,
    said,
    someTokens,
    tokenInput,
)
from tests.backends.llamacpp.direct import Direct, weightsOf
from tests.backends.llamacpp.running import greedy
from tests.backends.runs import Run
from tests.tiny_model import WIDTH, vocabulary

RANDOM = {"style": "random"}
VOCABULARY = len(vocabulary())
LAST = Delivery(rows="last")
TOLERANCE = 0.1  # three times what was measured


def blocks(count, *more):
    """The sizes of the batches in which so many places are computed from the beginning on."""
    return [min(BLOCK, count - start) for start in range(0, count, BLOCK)] + list(more)


def allLogits(run):
    return np.concatenate([logitRows(result) for result in run.results if result.token_id >= 0])


class TestLogits:
    def test_of_a_prompt_in_one_block_are_those_of_llama_cpp(self, load, direct):
        model = load(RANDOM)
        for count in (1, 2, 20, BLOCK - 1, BLOCK):
            prompt = someTokens(count, seed=count)
            run = Run(model, tokenInput(prompt), logitsOf(max_new_tokens=1))
            rows = logitRows(run.results[0])
            assert rows.shape == (count, VOCABULARY)
            assert np.isfinite(rows).all()
            assert np.array_equal(rows, direct.logits(prompt))
            assert run.perf.prefill_tokens == count

    def test_of_a_prompt_in_several_blocks_are_those_of_llama_cpp(self, load, direct):
        model = load(RANDOM)
        for count in (BLOCK + 1, 2 * BLOCK, 200):
            prompt = someTokens(count, seed=count)
            rows = logitRows(Run(model, tokenInput(prompt), logitsOf(max_new_tokens=1)).results[0])
            assert np.array_equal(rows, direct.logits(prompt, blocks(count)))
            whole = direct.logits(prompt)
            assert np.allclose(rows, whole, rtol=0, atol=TOLERANCE)
            assert (rows.argmax(axis=1) == whole.argmax(axis=1)).mean() > 0.97

    def test_of_generated_tokens_are_those_of_llama_cpp(self, load, direct):
        prompt = someTokens(100)
        run = Run(load(RANDOM), tokenInput(prompt), logitsOf(max_new_tokens=12))
        tokens = said(run)
        assert len(tokens) == 12
        rows = allLogits(run)
        expected = direct.logits([*prompt, *tokens[:-1]], blocks(100, *[1] * 11))
        assert np.array_equal(rows, expected)
        assert tokens == direct.greedy(prompt, 12)

    def test_come_with_the_token_that_was_chosen_from_them(self, load):
        prompt = someTokens(70)
        run = Run(load(RANDOM), tokenInput(prompt), logitsOf(max_new_tokens=20))
        withToken = [result for result in run.results if result.token_id >= 0]
        assert [result.logits.num_tokens for result in withToken] == [70] + [1] * 19
        for result in withToken:
            assert logitRows(result)[-1].argmax() == result.token_id
            assert len(result.logits.logits) == result.logits.num_tokens * VOCABULARY * 4
            assert result.last_hidden_layer is NO_HIDDEN_STATES

    def test_come_with_the_parts_of_a_character_too(self, load):
        """The random model says bytes that no character has: of those that come at the end nothing is computed."""
        model = load(RANDOM)
        states = set()
        for seed in range(12):
            run = Run(model, tokenInput(someTokens(9, seed)), logitsOf(max_new_tokens=3))
            states |= {state for result, state in run.events if result.logits is not NO_LOGITS}
            assert all((result.logits is NO_LOGITS) == (result.token_id < 0) for result in run.results)
            assert run.events[-1][0].logits is NO_LOGITS
        assert states == {CallState.RKLLM_RUN_NORMAL, CallState.RKLLM_RUN_WAITING}

    def test_of_a_place_depend_on_it_and_what_came_before_alone(self, load):
        model = load(RANDOM)
        prompt = someTokens(40)
        rows = logitRows(Run(model, tokenInput(prompt), logitsOf(max_new_tokens=1)).results[0])
        for place in (0, 17, 39):
            other = [*prompt]
            other[place] = 260 - prompt[place]
            changed = logitRows(Run(model, tokenInput(other), logitsOf(max_new_tokens=1)).results[0])
            assert np.array_equal(changed[:place], rows[:place])
            assert (abs(changed[place:] - rows[place:]).max(axis=1) > TOLERANCE).all()

    def test_are_what_they_are_before_sampling(self, load):
        model = load(RANDOM)
        prompt = tokenInput([9] * 20)
        hot = RKLLMSamplingParam(top_k=3, temperature=5.0, repeat_penalty=9.0, presence_penalty=50.0)
        plain = Run(model, prompt, logitsOf(max_new_tokens=1))
        sampled = Run(model, prompt, structs.replace(logitsOf(max_new_tokens=6), sampling_params=hot))
        assert np.array_equal(logitRows(sampled.results[0]), logitRows(plain.results[0]))
        tokens = said(sampled)
        with Direct(model._param.model_path) as direct:
            expected = direct.logits([*[9] * 20, *tokens[:-1]], [20, *[1] * 5])
        assert np.array_equal(allLogits(sampled), expected)

    def test_of_a_text_are_of_what_the_template_made_of_it(self, load, direct):
        model = load({**RANDOM, "chatTemplate": None})
        rows = logitRows(Run(model, "hello", logitsOf(max_new_tokens=1)).results[0])
        assert len(rows) == 4  # "he" is one token
        model = load(RANDOM)
        run = Run(model, "hello", logitsOf(max_new_tokens=1))
        assert logitRows(run.results[0]).shape == (run.perf.prefill_tokens, VOCABULARY)
        text = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
        tokens = model._loaded.vocabulary.tokenize(text, 2048)
        assert np.array_equal(logitRows(run.results[0]), direct.logits(tokens, blocks(len(tokens))))

    def test_last_of_them_alone(self, load):
        model = load(RANDOM)
        for count in (1, 20, BLOCK, 150):
            prompt = tokenInput(someTokens(count))
            whole = Run(model, prompt, logitsOf(max_new_tokens=5))
            last = Run(model, prompt, logitsOf(max_new_tokens=5), delivery=LAST)
            assert [result.logits.num_tokens for result in last.results if result.token_id >= 0] == [1] * 5
            assert last.tokens == whole.tokens
            assert np.allclose(allLogits(last), allLogits(whole)[-5:], rtol=0, atol=TOLERANCE)

    def test_of_all_places_though_they_were_computed_before(self, load):
        model = load(RANDOM)
        prompt = tokenInput(someTokens(150))
        answer = Run(model, prompt, greedy(max_new_tokens=5)).tokens
        first, second = (Run(model, prompt, logitsOf(max_new_tokens=5)) for _ in range(2))
        assert first.tokens == answer
        for run in (first, second):
            assert run.perf.prefill_tokens == 150
            assert logitRows(run.results[0]).shape == (150, VOCABULARY)
        assert np.array_equal(allLogits(first), allLogits(second))
        after = Run(model, prompt, greedy(max_new_tokens=5))
        assert (after.tokens, after.perf.prefill_tokens) == (answer, 150 - 2 * BLOCK)

    def test_in_a_history_are_of_the_new_places(self, load, direct):
        model = load(RANDOM)
        before, more = someTokens(100), someTokens(30, seed=1)
        answer = said(Run(model, tokenInput(before), greedy(max_new_tokens=8, keep_history=1)))
        run = Run(model, tokenInput(more), logitsOf(max_new_tokens=3, keep_history=1))
        assert run.perf.prefill_tokens == len(more) + 1  # the last token of the answer was not computed yet
        tokens = said(run)
        everything = [*before, *answer, *more, *tokens[:-1]]
        # 107 places are there; 21 more fill the second block.
        expected = direct.logits(everything, [64, 36, *[1] * 7, 21, 10, 1, 1])
        assert np.array_equal(allLogits(run), expected[-len(more) - 2 :])
        assert [result.logits.num_tokens for result in run.results if result.token_id >= 0] == [30, 1, 1]

    def test_of_a_step_that_had_to_be_computed_anew(self, recorded, direct):
        """A cache that cannot be shifted lets go of what is behind the places that stay."""
        model, _ = recorded(answers={"llama_memory_can_shift": lambda memory: False}, max_context_len=32, n_keep=0)
        prompt = someTokens(20)
        run = Run(model, tokenInput(prompt), logitsOf(max_new_tokens=30))
        withToken = [result for result in run.results if result.token_id >= 0]
        assert [result.logits.num_tokens for result in withToken] == [20] + [1] * 29
        tokens = [result.token_id for result in withToken]
        held = [*prompt, *tokens[:13]]  # one more than there is room for
        expected = direct.logits(held[len(held) // 2 :])[-1]
        assert np.array_equal(logitRows(withToken[13])[0], expected)
        for result in withToken:
            assert logitRows(result)[-1].argmax() == result.token_id


class TestHiddenStates:
    def test_are_those_of_llama_cpp(self, load, direct):
        model = load(RANDOM)
        for count in (1, 20, BLOCK, BLOCK + 1, 200):
            prompt = someTokens(count, seed=count)
            rows = hiddenRows(Run(model, tokenInput(prompt), hiddenOf()).results[0])
            assert rows.shape == (count, WIDTH)
            assert np.isfinite(rows).all()
            assert np.array_equal(rows, direct.hidden(prompt, blocks(count)))
            assert np.allclose(rows, direct.hidden(prompt), rtol=0, atol=TOLERANCE)

    def test_come_once_and_nothing_is_generated(self, load):
        run = Run(load(RANDOM, max_new_tokens=9), tokenInput(someTokens(150)), hiddenOf(max_new_tokens=7))
        (result,) = run.results
        assert (result.text, result.token_id, result.logits) == (None, -1, NO_LOGITS)
        assert (result.last_hidden_layer.num_tokens, result.last_hidden_layer.embd_size) == (150, WIDTH)
        assert len(result.last_hidden_layer.hidden_states) == 150 * WIDTH * 4
        assert [state for _, state in run.events] == [CallState.RKLLM_RUN_NORMAL, CallState.RKLLM_RUN_FINISH]
        assert (run.reason, run.perf.prefill_tokens, run.perf.generate_tokens) == ("stop", 150, 0)
        assert run.events[-1][0].last_hidden_layer is NO_HIDDEN_STATES

    def test_times_the_output_matrix_are_the_logits(self, load, models):
        model = load(RANDOM)
        prompt = tokenInput(someTokens(100))
        hidden = hiddenRows(Run(model, prompt, hiddenOf()).results[0])
        logits = logitRows(Run(model, prompt, logitsOf(max_new_tokens=1)).results[0])
        matrix = weightsOf(models(**RANDOM), "output.weight")
        assert np.allclose(hidden @ matrix.T, logits, rtol=0, atol=TOLERANCE)
        assert ((hidden @ matrix.T).argmax(axis=1) == logits.argmax(axis=1)).all()

    def test_last_of_them_alone(self, load):
        model = load(RANDOM)
        for count in (1, 20, BLOCK, 150):
            prompt = tokenInput(someTokens(count))
            whole = hiddenRows(Run(model, prompt, hiddenOf()).results[0])
            last = hiddenRows(Run(model, prompt, hiddenOf(), delivery=LAST).results[0])
            assert np.array_equal(last, whole[-1:])

    def test_of_a_place_depend_on_it_and_what_came_before_alone(self, load):
        model = load(RANDOM)
        prompt = someTokens(40)
        rows = hiddenRows(Run(model, tokenInput(prompt), hiddenOf()).results[0])
        other = [*prompt[:17], 260 - prompt[17], *prompt[18:]]
        changed = hiddenRows(Run(model, tokenInput(other), hiddenOf()).results[0])
        assert np.array_equal(changed[:17], rows[:17])
        assert (abs(changed[17:] - rows[17:]).max(axis=1) > TOLERANCE).all()

    def test_in_a_history_are_of_the_new_places(self, load, direct):
        model = load(RANDOM)
        before, more, again = someTokens(100), someTokens(30, seed=1), someTokens(10, seed=2)
        answer = said(Run(model, tokenInput(before), greedy(max_new_tokens=8, keep_history=1)))
        run = Run(model, tokenInput(more), hiddenOf(keep_history=1))
        expected = direct.hidden([*before, *answer, *more], [64, 36, *[1] * 7, 21, 10])
        assert np.array_equal(hiddenRows(run.results[0]), expected[-len(more) :])
        # What was read is history for the next run, and nothing was said to it.
        run = Run(model, tokenInput(again), logitsOf(max_new_tokens=1, keep_history=1))
        assert run.perf.prefill_tokens == len(again)
        expected = direct.logits([*before, *answer, *more, *again])[-len(again) :]
        assert np.allclose(logitRows(run.results[0]), expected, rtol=0, atol=TOLERANCE)

    def test_leave_nothing_behind(self, recorded):
        """Neither a run that ends nor one that fails lets later runs pay for hidden states."""
        model, c = recorded()
        prompt = tokenInput(someTokens(150))
        baseline = Run(model, prompt, greedy(max_new_tokens=5)).tokens
        Run(model, prompt, hiddenOf())
        assert Run(model, prompt, greedy(max_new_tokens=5)).tokens == baseline
        c.answers["llama_decode"] = lambda context, batch: -3
        with pytest.raises(RuntimeCallFailed):
            Run(model, prompt, hiddenOf())
        c.answers.clear()
        assert [call for name, call in c.calls if name == "llama_set_embeddings"][-1][1] is False
        assert Run(model, prompt, greedy(max_new_tokens=5)).tokens == baseline


class TestLength:
    """Tensors that would be too long are refused before anything is computed."""

    @pytest.mark.parametrize("mode", [logitsOf, hiddenOf])
    def test_is_bound_before_anything_is_computed(self, recorded, mode):
        model, c = recorded()
        width = VOCABULARY if mode is logitsOf else WIDTH
        prompt = tokenInput(someTokens(20))
        for delivery, size in (
            (Delivery(tensors="json"), 20 * width * 4 // 2),
            (Delivery(tensors="base64"), 20 * width * 4 * 4 // 3),
            (Delivery(tensors="json", rows="last"), width * 4 // 2),
            (Delivery(tensors="base64", rows="last"), width * 4 * 4 // 3),
        ):
            before = c.count("llama_decode")
            with pytest.raises(ResultTooLarge) as caught:
                Run(model, prompt, mode(), delivery=structs.replace(delivery, maxReply=size - 1))
            assert caught.value.data == {"bytes": size, "limit": size - 1}
            assert c.count("llama_decode") == before
            Run(model, prompt, mode(max_new_tokens=1), delivery=structs.replace(delivery, maxReply=size))
            assert c.count("llama_decode") > before

    def test_is_of_this_run_not_of_its_history(self, recorded):
        model, c = recorded()
        Run(model, tokenInput(someTokens(100)), greedy(max_new_tokens=5, keep_history=1))
        size, before = model.getKVCacheSize(), c.count("llama_decode")
        limit = Delivery(maxReply=10 * WIDTH * 2)
        with pytest.raises(ResultTooLarge):
            Run(model, tokenInput(someTokens(11)), hiddenOf(keep_history=1), delivery=limit)
        assert (model.getKVCacheSize(), c.count("llama_decode")) == (size, before)
        run = Run(model, tokenInput(someTokens(10)), hiddenOf(keep_history=1), delivery=limit)
        assert hiddenRows(run.results[0]).shape == (10, WIDTH)

    def test_does_not_matter_to_text(self, load):
        run = Run(load(RANDOM), tokenInput([9] * 20), greedy(max_new_tokens=3), delivery=Delivery(maxReply=1))
        assert run.reason == "length"


class TestEnd:
    def test_by_an_abort_in_prefill_gives_no_rows(self, recorded):
        for mode in (logitsOf, hiddenOf):
            model, c = recorded()
            decode, prompt = theLibrary().c.llama_decode, tokenInput(someTokens(200))

            def aborting(context, batch, model=model, c=c, decode=decode):
                if c.count("llama_decode") == 2:
                    model.abort()
                return decode(context, batch)

            expected = Run(model, prompt, mode(max_new_tokens=2)).events[0][0]
            c.calls.clear()
            c.answers["llama_decode"] = aborting
            run = Run(model, prompt, mode(max_new_tokens=2))
            assert (run.reason, run.results) == ("abort", [])
            c.answers.clear()
            again = Run(model, prompt, mode(max_new_tokens=2)).events[0][0]
            assert again == expected

    def test_by_an_abort_keeps_the_rows_so_far(self, load):
        model = load(RANDOM)
        seen = []

        def onResult(result, state):
            seen.append(result)
            if len(seen) == 4:
                model.abort()

        run = Run(model, tokenInput(someTokens(20)), logitsOf(max_new_tokens=50), onResult)
        rows = [result.logits.num_tokens for result in run.results if result.token_id >= 0]
        assert (run.reason, rows) == ("abort", [20, 1, 1, 1])

    def test_by_a_limit_of_the_context(self, load):
        model = load(RANDOM, max_context_len=32, max_new_tokens=-1)
        run = Run(model, tokenInput(someTokens(20)), logitsOf())
        assert (run.reason, allLogits(run).shape) == ("length", (31, VOCABULARY))


class TestPackagedModel:
    PROMPT = list(range(1000, 1070))

    @pytest.fixture
    def model(self, loadPackaged):
        return loadPackaged()

    @pytest.fixture
    def direct(self, loadPackaged):
        with Direct(PACKAGED["smollm2"].path()) as direct:
            yield direct

    def test_logits(self, model, direct):
        run = Run(model, tokenInput(self.PROMPT), logitsOf(max_new_tokens=3))
        rows, tokens = allLogits(run), said(run)
        assert rows.shape == (72, 49152)
        assert np.isfinite(rows).all()
        assert np.array_equal(rows, direct.logits([*self.PROMPT, *tokens[:-1]], [64, 6, 1, 1]))
        whole = direct.logits([*self.PROMPT, *tokens[:-1]])
        assert abs(rows - whole).mean() < 0.3
        assert (rows.argmax(axis=1) == whole.argmax(axis=1)).mean() > 0.9
        assert [int(row.argmax()) for row in rows[-3:]] == tokens

    def test_hidden_states(self, model, direct):
        rows = hiddenRows(Run(model, tokenInput(self.PROMPT), hiddenOf()).results[0])
        assert rows.shape == (70, 576)
        assert np.array_equal(rows, direct.hidden(self.PROMPT, [64, 6]))
        last = hiddenRows(Run(model, tokenInput(self.PROMPT), hiddenOf(), delivery=LAST).results[0])
        assert np.array_equal(last, rows[-1:])

    def test_hidden_states_of_texts_tell_what_they_are_about(self, model):
        def embedding(text):
            row = hiddenRows(Run(model, text, hiddenOf(), delivery=LAST).results[0])[0]
            return row / np.linalg.norm(row)

        paris, berlin, bread = map(embedding, ("Where is Paris?", "Where is Berlin?", "How do I bake bread at home?"))
        assert paris @ berlin > paris @ bread

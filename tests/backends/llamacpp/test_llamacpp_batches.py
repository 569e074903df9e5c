"""Several inputs in one run: each says what it says alone, whatever happens to the others."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec import structs

from rkllm_twisted.backends.llamacpp.library import theLibrary
from rkllm_twisted.errors import InvalidParams, NotSupported, PromptTooLong, ResultTooLarge, RuntimeCallFailed
from rkllm_twisted.values import (
    CallState,
    Delivery,
    InputType,
    RKLLMExtendParam,
    RKLLMInferParam,
    RKLLMInput,
    RKLLMPromptCacheParam,
)
from tests.backends.llamacpp.asking import (
    embedInput,
    hiddenOf,
    hiddenRows,
    logitsOf,
    said,
    someTokens,
    textInput,
    tokenInput,
)
from tests.backends.llamacpp.direct import Direct
from tests.backends.llamacpp.running import greedy
from tests.backends.runs import Run
from tests.tiny_model import WIDTH, tokenOf

NORMAL, WAITING, FINISH = CallState.RKLLM_RUN_NORMAL, CallState.RKLLM_RUN_WAITING, CallState.RKLLM_RUN_FINISH
RANDOM, CYCLE = {"style": "random"}, {"style": "cycle"}


def inputs(count):
    """So many, no two of the same length, some longer than a block."""
    return [tokenInput(someTokens(7 + 23 * index, seed=index)) for index in range(count)]


def letters(text):
    """An input for each letter."""
    return [tokenInput([tokenOf(ord(letter))]) for letter in text]


def ofSize(count):
    return {"extend_param": RKLLMExtendParam(n_batch=count)}


class TestAnswers:
    @pytest.mark.parametrize("count", [2, 3, 8, 70])
    def test_are_those_that_each_gives_alone(self, load, count):
        given = inputs(min(count, 8)) * (count // 8 + 1)
        alone, several = load(RANDOM), load(RANDOM, max_context_len=300, **ofSize(count))
        expected = [said(Run(alone, input, greedy(max_new_tokens=12))) for input in given[: min(count, 8)]]
        run = Run(several, given[:count], greedy(max_new_tokens=12))
        assert [run.tokensOf(index) for index in range(count)] == (expected * (count // 8 + 1))[:count]
        assert run.reason == "length"
        again = Run(several, given[:count], greedy(max_new_tokens=12))
        assert [again.tokensOf(index) for index in range(count)] == [run.tokensOf(index) for index in range(count)]

    def test_of_the_packaged_model(self, loadPackaged):
        model = loadPackaged(**ofSize(2))
        questions = [
            textInput(f"What is the capital of {country}?", enable_thinking=False) for country in ("France", "Italy")
        ]
        run = Run(model, questions, greedy(max_new_tokens=30))
        assert "Paris" in run.textOf(0)
        assert "Rome" in run.textOf(1)

    def test_come_in_turns(self, load):
        run = Run(load(CYCLE, **ofSize(3)), letters("ahx"), greedy(max_new_tokens=4))
        assert [(result.batch_index, result.text) for result, _ in run.events[:-1]] == [
            (index, text[step]) for step in range(4) for index, text in enumerate(("bcde", "ijkl", "yz. "))
        ]
        finish, state = run.events[-1]
        assert (state, finish.batch_index) == (FINISH, None)
        assert (finish.perf.prefill_tokens, finish.perf.generate_tokens) == (3, 9)
        assert [state for _, state in run.events].count(FINISH) == 1

    def test_that_end_are_reported_until_all_have(self, load):
        model = load({**CYCLE, "eosAfter": "m"}, **ofSize(3))
        run = Run(model, letters("kan"), greedy(max_new_tokens=6))
        assert [run.textOf(index) for index in range(3)] == ["lm", "bcdefg", "opqrst"]
        ended = [(result.text, result.token_id, state) for result, state in run.events[:-1] if result.batch_index == 0]
        assert [token for _, token, _ in ended] == [tokenOf(ord("l")), tokenOf(ord("m")), 2, -1, -1, -1]
        assert ended[3:] == [(None, -1, NORMAL)] * 3
        assert (run.reason, run.events[-1][0].perf.generate_tokens) == ("length", 2 + 5 + 5)
        assert model.getKVCacheSize() == [3, 6, 6]

    def test_stop_if_all_do(self, load):
        run = Run(load({**CYCLE, "eosAfter": "m"}, **ofSize(2)), letters("kc"), greedy(max_new_tokens=50))
        assert ([run.textOf(0), run.textOf(1)], run.reason) == (["lm", "defghijklm"], "stop")

    def test_of_several_bytes_wait_each_for_itself(self, load):
        ring = "aé€🦊"
        whole = ring.encode()
        starts = [tokenInput([tokenOf(whole[place])]) for place in (0, 2, 5)]  # before é, before €, before 🦊
        run = Run(load({**CYCLE, "ring": ring}, **ofSize(3)), starts, greedy(max_new_tokens=10))
        assert [run.textOf(index) for index in range(3)] == ["é€🦊a", "€🦊aé", "🦊aé€"]
        states = [[state for result, state in run.events[:-1] if result.batch_index == index] for index in range(3)]
        wait, say = WAITING, NORMAL
        assert states[0] == [wait, say, wait, wait, say, wait, wait, wait, say, say]
        assert states[1] == [wait, wait, say, wait, wait, wait, say, say, wait, say]
        assert all(result.text is None for result, state in run.events if state is WAITING)

    def test_that_break_off_inside_a_character_end_with_a_replacement(self, load):
        ring = "aé€🦊"
        starts = [tokenInput([tokenOf(ring.encode()[place])]) for place in (0, 2)]
        run = Run(load({**CYCLE, "ring": ring}, **ofSize(2)), starts, greedy(max_new_tokens=2))
        assert [run.textOf(index) for index in range(2)] == ["é", "\ufffd"]
        replacement, state = run.events[-2]
        assert (replacement.batch_index, replacement.token_id, state) == (1, -1, NORMAL)

    def test_share_no_sampler(self, load):
        """A penalty is for the tokens of its own input."""
        model = load({**CYCLE, "ring": "ab"}, **ofSize(2))
        strict = structs.replace(greedy().sampling_params, presence_penalty=1000.0)
        run = Run(model, letters("aa"), RKLLMInferParam(sampling_params=strict, max_new_tokens=10))
        assert run.tokensOf(0) == run.tokensOf(1)
        assert len(set(run.tokensOf(0))) == 10

    def test_of_embeddings_and_tokens(self, load):
        rows = np.random.default_rng(0).standard_normal((5, WIDTH)).astype(np.float32)
        alone = said(Run(load(RANDOM), embedInput(rows), greedy(max_new_tokens=5)))
        run = Run(load(RANDOM, **ofSize(2)), [inputs(1)[0], embedInput(rows)], greedy(max_new_tokens=5))
        assert run.tokensOf(1) == alone


class TestHistories:
    def test_are_side_by_side(self, load):
        alone, several = [load(RANDOM) for _ in range(3)], load(RANDOM, **ofSize(3))
        sizes = np.zeros(3, int)
        for turn in range(3):
            given = [tokenInput(someTokens(5 + 20 * index, seed=10 * turn + index)) for index in range(3)]
            asked = greedy(max_new_tokens=5, keep_history=1)
            run = Run(several, given, asked)
            expected = [said(Run(model, input, asked)) for model, input in zip(alone, given, strict=True)]
            assert [run.tokensOf(index) for index in range(3)] == expected
            sizes += [5 + 5, 25 + 5, 45 + 5]
            assert several.getKVCacheSize() == list(sizes - 1)
            assert run.events[-1][0].perf.prefill_tokens == 75 + 3 * bool(turn)

    def test_reuse_each_its_own_prefix(self, load):
        model = load(RANDOM, **ofSize(2))
        long, other = someTokens(150), someTokens(150, seed=1)

        def prefilled(*prompts):
            run = Run(model, [tokenInput(prompt) for prompt in prompts], greedy(max_new_tokens=2))
            return run.events[-1][0].perf.prefill_tokens

        assert prefilled(long, other) == 300
        assert prefilled(long, other) == 44
        assert prefilled(long, long) == 22 + 150
        assert prefilled(other, long) == 150 + 22

    def test_are_cleared_together(self, load):
        model = load(RANDOM, **ofSize(2))
        Run(model, inputs(2), greedy(max_new_tokens=3, keep_history=1))
        assert model.getKVCacheSize() == [9, 32]
        model.clearKVCache(False, None)
        assert model.getKVCacheSize() == [0, 0]

    def test_lose_each_its_own_range(self, load):
        model = load(RANDOM, **ofSize(2))
        Run(model, inputs(2), greedy(max_new_tokens=3, keep_history=1))
        for wrong in ([(0, 1)], [(0, 1)] * 3):
            with pytest.raises(InvalidParams, match=f"expected 2 numbers, as n_batch, got {len(wrong)}"):
                model.clearKVCache(False, wrong)
        with pytest.raises(InvalidParams, match=r"\$\.end_pos\[1\]: expected at most 32"):
            model.clearKVCache(False, [(0, 5), (0, 33)])
        assert model.getKVCacheSize() == [9, 32]
        model.clearKVCache(False, [(2, 5), (10, 30)])
        assert model.getKVCacheSize() == [6, 12]

    def test_shift_each_by_itself(self, load):
        alone, several = (
            load(RANDOM, max_context_len=40, n_keep=3),
            load(RANDOM, max_context_len=40, n_keep=3, **ofSize(2)),
        )
        given = [tokenInput(someTokens(count, seed=count)) for count in (35, 4)]
        expected = [said(Run(alone, input, greedy(max_new_tokens=30))) for input in given]
        run = Run(several, given, greedy(max_new_tokens=30))
        assert [run.tokensOf(index) for index in range(2)] == expected
        first, second = several.getKVCacheSize()
        assert first < 40
        assert second == 4 + 30 - 1

    def test_that_are_full_end_alone(self, load):
        model = load(RANDOM, max_context_len=40, max_new_tokens=-1, **ofSize(2))
        run = Run(model, [tokenInput(someTokens(count)) for count in (35, 4)], greedy())
        assert ([len(run.tokensOf(index)) for index in range(2)], run.reason) == ([5, 36], "length")


class TestHiddenStates:
    def test_of_each_are_those_of_llama_cpp(self, load, models):
        given = [someTokens(count, seed=count) for count in (3, 64, 20)]
        model = load(RANDOM, **ofSize(3))
        for delivery, rows in ((Delivery(), slice(None)), (Delivery(rows="last"), slice(-1, None))):
            run = Run(model, [tokenInput(ids) for ids in given], hiddenOf(), delivery=delivery)
            assert [result.batch_index for result, _ in run.events] == [0, 1, 2, None]
            with Direct(models(**RANDOM)) as direct:
                for index, ids in enumerate(given):
                    (result,) = run.resultsOf(index)
                    assert (result.text, result.token_id) == (None, -1)
                    assert np.array_equal(hiddenRows(result), direct.hidden(ids)[rows])
            assert run.reason == "stop"

    def test_are_bound_before_anything_is_computed(self, recorded):
        model, c = recorded(**ofSize(2))
        limit = Delivery(maxReply=10 * WIDTH * 2)
        with pytest.raises(ResultTooLarge):
            Run(model, [tokenInput([9] * 3), tokenInput([9] * 11)], hiddenOf(), delivery=limit)
        assert not c.count("llama_decode")
        Run(model, [tokenInput([9] * 3), tokenInput([9] * 10)], hiddenOf(), delivery=limit)


class TestEnd:
    def test_by_an_abort(self, load):
        model = load(CYCLE, **ofSize(2))

        def onResult(result, state):
            if result.text == "e":
                model.abort()

        run = Run(model, letters("am"), greedy(), onResult)
        assert (run.textOf(0), run.textOf(1), run.reason) == ("bcde", "nopq", "abort")
        assert run.events[-1][1] is FINISH
        assert Run(model, letters("am"), greedy(max_new_tokens=2)).textOf(1) == "no"

    def test_by_an_abort_between_two_prompts(self, recorded):
        model, c = recorded(**ofSize(2))
        history = greedy(max_new_tokens=3, keep_history=1)
        Run(model, inputs(2), history)
        before, decode = model.getKVCacheSize(), theLibrary().c.llama_decode
        c.calls.clear()

        def aborting(context, batch):
            done = decode(context, batch)
            model.abort()
            return done

        c.answers["llama_decode"] = aborting
        run = Run(model, inputs(2), history)
        assert (run.reason, len(run.events), c.count("llama_decode")) == ("abort", 1, 1)
        c.answers.clear()
        assert model.getKVCacheSize()[1] == before[1]
        assert model.getKVCacheSize()[0] in (before[0], before[0] + 1)  # the last token said may be computed by now

    def test_by_an_abort_inside_a_step(self, recorded, load):
        """The cache may hold the tokens of the step by then, of one input or of all: they are let go of."""
        model, c = recorded(**ofSize(2))
        witness, asked, seen = load(RANDOM, **ofSize(2)), greedy(max_new_tokens=9, keep_history=1), []
        decode = theLibrary().c.llama_decode
        c.answers["llama_decode"] = lambda context, batch: decode(context, batch) or (2 if len(seen) == 6 else 0)
        run = Run(model, inputs(2), asked, lambda result, state: seen.append(result))
        c.answers.clear()
        assert (run.reason, len(run.tokensOf(0)), len(run.tokensOf(1))) == ("abort", 3, 3)
        Run(witness, inputs(2), structs.replace(asked, max_new_tokens=3))
        assert model.getKVCacheSize() == witness.getKVCacheSize() == [9, 32]
        both = [Run(each, inputs(2), asked) for each in (model, witness)]
        assert [both[0].tokensOf(n) for n in (0, 1)] == [both[1].tokensOf(n) for n in (0, 1)]

    def test_by_a_failure_in_a_step(self, recorded, load):
        model, c = recorded(**ofSize(2))
        asked = greedy(max_new_tokens=6, keep_history=1)
        witness = load(RANDOM, **ofSize(2))
        for each in (model, witness):
            Run(each, inputs(2), asked)
        before, decode = model.getKVCacheSize(), theLibrary().c.llama_decode
        seen = []

        def failing(context, batch):
            done = decode(context, batch)  # both have their token in the cache, and the step failed all the same
            return -3 if batch.n_tokens == 2 and len(seen) > 2 else done

        c.answers["llama_decode"] = failing
        with pytest.raises(RuntimeCallFailed) as caught:
            Run(model, letters("xy"), asked, lambda result, state: seen.append(result))
        assert caught.value.data == {"function": "llama_decode", "status": -3}
        assert [result.batch_index for result in seen] == [0, 1, 0, 1]
        c.answers.clear()
        assert model.getKVCacheSize() == [size + 1 for size in before]  # the tokens said last are computed by now
        given = [tokenInput(someTokens(9, seed)) for seed in (8, 9)]
        both = [Run(each, given, asked) for each in (model, witness)]
        assert [both[0].tokensOf(n) for n in (0, 1)] == [both[1].tokensOf(n) for n in (0, 1)]
        assert c.count("llama_sampler_chain_init") == c.count("llama_sampler_free")


class TestRefusals:
    def test_of_another_number_of_inputs(self, recorded):
        model, c = recorded(**ofSize(2))
        for count in (0, 1, 3):
            with pytest.raises(InvalidParams) as caught:
                Run(model, inputs(count), greedy())
            assert caught.value.detail == f"$.rkllm_input: expected 2 inputs, as n_batch of init, got {count}"
        with pytest.raises(InvalidParams) as caught:
            Run(model, "x", greedy())
        assert caught.value.detail == "$.rkllm_input: expected 2 inputs, as n_batch of init, got one"
        assert not c.count("llama_decode")

    def test_of_what_one_input_alone_may_have(self, recorded, tmp_path):
        model, c = recorded(**ofSize(2))
        saving = RKLLMPromptCacheParam(save_prompt_cache=1, prompt_cache_path=str(tmp_path / "cache.bin"))
        for asked in (logitsOf(), greedy(prompt_cache_params=saving)):
            with pytest.raises(NotSupported) as caught:
                Run(model, inputs(2), asked)
            assert caught.value.data == {"needs": "n_batch 1"}
        assert not c.count("llama_decode")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("input", "detail"),
        [
            (tokenInput([5, 267]), "$.rkllm_input[1].token_input.input_ids[1]: expected 0 to 266, got 267"),
            (tokenInput([5], 2), "$.rkllm_input[1].token_input.n_tokens: expected 1 to 1, as input_ids, got 2"),
            (embedInput(np.zeros((1, WIDTH)), 2), "$.rkllm_input[1].embed_input.embed: expected n_tokens × 64"),
            (RKLLMInput(), "$.rkllm_input[1].prompt_input: expected a value"),
            (textInput("x", role="king"), '$.rkllm_input[1].role: expected "user" or "tool", got \'king\''),
            (textInput("no JSON", role="tool"), "$.rkllm_input[1].prompt_input: expected results of functions as JSON"),
            (RKLLMInput(input_type=InputType.RKLLM_INPUT_MULTIMODAL), "$.rkllm_input[1].multimodal_input: expected a"),
        ],
    )
    def test_name_the_input(self, recorded, input, detail):
        model, c = recorded(**ofSize(2))
        with pytest.raises(InvalidParams) as caught:
            Run(model, [tokenInput([9]), input], greedy())
        assert caught.value.detail.startswith(detail)
        assert not c.count("llama_decode")

    def test_leave_the_histories_of_the_others_alone(self, load):
        """Also of one that would have had to make room for its own input."""
        model = load(RANDOM, max_context_len=64, n_keep=3, **ofSize(2))
        asked = greedy(max_new_tokens=5, keep_history=1)
        Run(model, [tokenInput(someTokens(50)), tokenInput([9] * 4)], asked)
        before = model.getKVCacheSize()
        for refused, kind in (([267], InvalidParams), ([9] * 64, PromptTooLong), ([9] * 61, PromptTooLong)):
            with pytest.raises(kind):
                Run(model, [tokenInput(someTokens(20)), tokenInput(refused)], asked)
            assert model.getKVCacheSize() == before
        Run(model, [tokenInput(someTokens(20)), tokenInput([9] * 60)], asked)
        assert model.getKVCacheSize()[0] < before[0] + 20

    def test_of_a_context_that_is_too_short_for_one(self, load):
        model = load(RANDOM, max_context_len=64, **ofSize(2))
        with pytest.raises(PromptTooLong) as caught:
            Run(model, [tokenInput([9]), tokenInput([9] * 64)], greedy())
        assert caught.value.data == {"tokens": 64, "limit": 64}
        run = Run(model, [tokenInput([9] * 63), tokenInput([9] * 63)], greedy(max_new_tokens=1))
        assert run.reason == "length"

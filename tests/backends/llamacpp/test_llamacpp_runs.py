"""Runs of tiny models: what comes out, in which order, and why it ends."""

from __future__ import annotations

import threading

import pytest

from rkllm_twisted.backends.llamacpp.context import BLOCK
from rkllm_twisted.backends.llamacpp.runtime import LlamaRuntime
from rkllm_twisted.errors import InvalidParams, PromptTooLong, RuntimeCallFailed
from rkllm_twisted.values import (
    CallState,
    InputType,
    RKLLMInferParam,
    RKLLMInput,
)
from tests.backends.llamacpp.asking import textInput, tokenInput
from tests.backends.llamacpp.running import greedy
from tests.backends.runs import Run
from tests.tiny_model import RING, TURN_END, TURN_START, tokenOf

NORMAL, WAITING, FINISH = CallState.RKLLM_RUN_NORMAL, CallState.RKLLM_RUN_WAITING, CallState.RKLLM_RUN_FINISH
RANDOM, CYCLE = {"style": "random"}, {"style": "cycle"}
ENDLESS = {"ignore_eos_token": True}


class TestText:
    def test_goes_round_the_ring(self, load):
        run = Run(load(CYCLE), "hello", greedy(max_new_tokens=60))
        assert run.text == (RING * 3)[:60]
        assert run.tokens == [tokenOf(ord(letter)) for letter in run.text]

    def test_greedy_repeats_itself(self, load):
        model = load(RANDOM)
        first, second = (Run(model, "hello", greedy(max_new_tokens=40)) for _ in range(2))
        assert first.tokens == second.tokens
        assert len(set(first.tokens)) > 5

    def test_depends_on_the_prompt_alone(self, load):
        model = load(RANDOM)
        alone = Run(model, "hello", greedy(max_new_tokens=20)).tokens
        assert Run(model, "something else", greedy(max_new_tokens=20)).tokens != alone
        assert Run(model, "hello", greedy(max_new_tokens=20)).tokens == alone

    def test_two_models_at_once_say_what_each_says_alone(self, load):
        models = [load({"style": "random", "seed": seed}) for seed in (0, 1)]
        alone = [Run(model, "hello", greedy(max_new_tokens=60)).tokens for model in models]
        together = [[], []]

        def run(index):
            together[index] = Run(models[index], "hello", greedy(max_new_tokens=60)).tokens

        threads = [threading.Thread(target=run, args=(index,)) for index in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert together == alone
        assert alone[0] != alone[1]

    def test_characters_stay_whole(self, load):
        ring = "aé€🦊"
        run = Run(load({"style": "cycle", "ring": ring}), "hello", greedy(max_new_tokens=2 * len(ring.encode())))
        assert [(result.text, state) for result, state in run.events[:10]] == [
            ("a", NORMAL),
            *[(None, WAITING), ("é", NORMAL)],
            *[(None, WAITING), (None, WAITING), ("€", NORMAL)],
            *[(None, WAITING), (None, WAITING), (None, WAITING), ("🦊", NORMAL)],
        ]
        assert run.text == ring * 2

    def test_unfinished_character_ends_as_replacement(self, load):
        run = Run(load({"style": "cycle", "ring": "a🦊"}), "hello", greedy(max_new_tokens=3))
        assert [(result.text, result.token_id, state) for result, state in run.events[-3:]] == [
            (None, tokenOf("🦊".encode()[1]), WAITING),
            ("�", -1, NORMAL),
            (None, 0, FINISH),
        ]
        assert run.perf.generate_tokens == 2  # the replacement is no token

    def test_noise_is_valid_text(self, load):
        run = Run(load(RANDOM, **ENDLESS), "hello", RKLLMInferParam(max_new_tokens=400))
        assert "".join(run.text).encode()
        assert WAITING in {state for _, state in run.events}


class TestEnd:
    def test_end_token_stops(self, load):
        run = Run(load({"style": "cycle", "eosAfter": "m"}, skip_special_token=True), "hello", greedy())
        assert (run.text, run.reason) == ("abcdefghijklm", "stop")
        assert (run.results[-1].token_id, run.results[-1].text) == (TURN_END, None)

    def test_end_token_is_printed_unless_skipped(self, load):
        run = Run(load({"style": "cycle", "eosAfter": "m"}, skip_special_token=False), "hello", greedy())
        assert (run.text, run.reason) == ("abcdefghijklm<|im_end|>", "stop")

    @pytest.mark.parametrize(("skips", "text"), [(True, "abc"), (False, "abc" + "<|im_end|>" * 7)])
    def test_end_token_may_be_ignored(self, load, skips, text):
        model = load({"style": "cycle", "eosAfter": "c"}, skip_special_token=skips, ignore_eos_token=True)
        run = Run(model, "hello", greedy(max_new_tokens=10))
        assert (run.text, run.reason, len(run.tokens)) == (text, "length", 10)

    @pytest.mark.parametrize(
        ("ofInit", "ofRun", "expected"), [(7, 0, 7), (7, -1, 7), (7, 3, 3), (7, 9, 9), (0, 0, 512), (-1, 0, 553)]
    )
    def test_token_limit(self, load, ofInit, ofRun, expected):
        model = load(CYCLE, max_new_tokens=ofInit, max_context_len=600, top_k=1)
        prompt = tokenInput([tokenOf(ord("a"))] * 47)
        run = Run(model, prompt, RKLLMInferParam(max_new_tokens=ofRun))
        assert (len(run.tokens), run.reason) == (expected, "length")

    def test_full_context_ends_it(self, load):
        model = load(RANDOM, max_context_len=32, max_new_tokens=-1)
        run = Run(model, tokenInput([5] * 20), greedy())
        assert (len(run.tokens), run.reason) == (12, "length")

    def test_last_place_of_the_context_is_used(self, load):
        run = Run(load(RANDOM, max_context_len=32, max_new_tokens=-1), tokenInput([5] * 31), greedy())
        assert (len(run.tokens), run.reason) == (1, "length")

    @pytest.mark.parametrize("count", [32, 33, 300, 5000])
    def test_prompt_without_room_for_one_token(self, load, count):
        model = load(RANDOM, max_context_len=32)
        with pytest.raises(PromptTooLong) as caught:
            Run(model, tokenInput([5] * count), greedy())
        assert caught.value.data == {"tokens": count, "limit": 32}
        assert Run(model, tokenInput([5]), greedy(max_new_tokens=1)).reason == "length"

    def test_text_that_cannot_fit_is_not_tokenised(self, recorded):
        model, c = recorded()
        with pytest.raises(PromptTooLong) as caught:
            Run(model, "<|im_start|>" * 10000)
        assert caught.value.data["tokens"] >= 2048
        assert not c.count("llama_tokenize")


class TestPerf:
    def test_figures(self, load, runtime, models):
        ticks = iter([10.0, 10.5, 12.0])
        model = load(CYCLE, runtime=LlamaRuntime(threads=1, seconds=lambda: next(ticks)))
        perf = Run(model, tokenInput([9] * 30), greedy(max_new_tokens=8)).perf
        assert (perf.prefill_tokens, perf.generate_tokens) == (30, 7)
        assert (perf.prefill_time_ms, perf.generate_time_ms) == (500.0, 1500.0)
        assert 10 < perf.memory_usage_mb < 100_000

    def test_batches_stay_below_the_limit(self, recorded):
        model, c = recorded(CYCLE)
        decode, batches = c.llama_decode, []
        c.answers["llama_decode"] = lambda context, batch: batches.append(batch.n_tokens) or decode(context, batch)
        run = Run(model, tokenInput([tokenOf(ord("a"))] * 600), greedy(max_new_tokens=2))
        assert run.text == "bc"
        assert sum(batches) == 601
        assert max(batches) <= BLOCK


class TestInput:
    def test_token_ids_go_in_as_they_are(self, load):
        run = Run(load(CYCLE), tokenInput([tokenOf(ord("x"))]), greedy(max_new_tokens=3))
        assert (run.text, run.perf.prefill_tokens) == ("yz.", 1)

    def test_n_tokens_counts(self, load):
        assert Run(load(CYCLE), tokenInput([*map(tokenOf, b"xc")], 1), greedy(max_new_tokens=1)).text == "y"

    @pytest.mark.parametrize("ids", [[-1], [5, 267], [2**31 - 1]])
    def test_unknown_token_id(self, load, ids):
        with pytest.raises(
            InvalidParams, match=r"^invalid params: \$\.rkllm_input\.token_input\.input_ids\[\d\]: expected"
        ):
            Run(load(RANDOM), tokenInput(ids))

    @pytest.mark.parametrize(("ids", "count"), [([], 0), ([5], 0), ([5], 2)])
    def test_bad_n_tokens(self, load, ids, count):
        with pytest.raises(InvalidParams, match=r"\$\.rkllm_input\.token_input\.n_tokens: expected"):
            Run(load(RANDOM), tokenInput(ids, count))

    def test_missing_member(self, load):
        with pytest.raises(InvalidParams, match=r"\$\.rkllm_input\.prompt_input: expected"):
            Run(load(RANDOM), RKLLMInput(input_type=InputType.RKLLM_INPUT_PROMPT))

    def test_unknown_role(self, load):
        with pytest.raises(InvalidParams, match=r'\$\.rkllm_input\.role: expected "user" or "tool"'):
            Run(load(RANDOM), textInput("x", role="king"))

    @pytest.mark.parametrize(
        ("role", "prompt", "thinks", "expected"),
        [
            ("user", "hi", True, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"),
            ("user", "hi", False, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"),
            (
                "tool",
                "7",
                True,
                "<|im_start|>user\n<tool_response>7</tool_response><|im_end|>\n<|im_start|>assistant\n",
            ),
        ],
    )
    def test_role_and_thinking_reach_the_template(self, load, monkeypatch, role, prompt, thinks, expected):
        model = load(CYCLE)
        texts, vocabulary = [], model._loaded.vocabulary
        tokenize = vocabulary.tokenize
        monkeypatch.setattr(
            vocabulary, "tokenize", lambda text, limit, **how: texts.append(text) or tokenize(text, limit, **how)
        )
        given = textInput(prompt, role=role, enable_thinking=thinks)
        assert Run(model, given, greedy(max_new_tokens=3)).text == "abc"
        assert texts == [expected]

    def test_special_tokens_of_the_template_are_tokens(self, load):
        tokens = load(CYCLE)._loaded.vocabulary.tokenize("<|im_start|>hi<|im_end|>", 100)
        assert tokens == [TURN_START, tokenOf(ord("h")), tokenOf(ord("i")), TURN_END]

    @pytest.mark.parametrize("prompt", ["hi", "<|im_start|>hi"])
    def test_begin_token_comes_once(self, load, prompt):
        model = load({"style": "random", "chatTemplate": None, "addBegin": True})
        assert Run(model, prompt, greedy(max_new_tokens=1)).perf.prefill_tokens == 3

    def test_without_a_template_prompts_go_in_as_they_are(self, load):
        model = load({"style": "random", "chatTemplate": None})
        assert Run(model, "hi", greedy(max_new_tokens=1)).perf.prefill_tokens == 2
        with pytest.raises(InvalidParams, match="at least one token"):
            Run(model, "")

    def test_text_beyond_utf8(self, load):
        assert Run(load(CYCLE), "a\0b \ud800 🦊", greedy(max_new_tokens=3)).text == "abc"


class TestFailures:
    def test_failed_decode_says_so_and_leaves_a_clean_model(self, recorded):
        model, c = recorded()
        baseline = Run(model, "hello", greedy(max_new_tokens=20)).tokens
        seen = []

        def onResult(result, state):
            seen.append(state)
            c.answers["llama_decode"] = lambda context, batch: -3

        with pytest.raises(RuntimeCallFailed) as caught:
            Run(model, "hello", greedy(), onResult)
        assert caught.value.data == {"function": "llama_decode", "status": -3}
        assert len(seen) == 1
        assert model.getKVCacheSize() == [model._context.count(0)]
        c.answers.clear()
        assert Run(model, "hello", greedy(max_new_tokens=20)).tokens == baseline
        assert c.count("llama_sampler_chain_init") == c.count("llama_sampler_free") == 3

    def test_call_after_destroy_does_not_reach_freed_memory(self, load):
        model = load(RANDOM)
        model.destroy()
        with pytest.raises(TypeError):
            Run(model, "hello")

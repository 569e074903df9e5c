"""Histories: how they go on, how they end, how they are cleared; and that the KV cache holds just these."""

from __future__ import annotations

import pytest

from rkllm_twisted.backends.llamacpp.template import ChatTemplate
from rkllm_twisted.errors import InvalidParams, RuntimeCallFailed
from rkllm_twisted.values import (
    RKLLMExtendParam,
)
from tests.backends.llamacpp.adapting import chosen, loadAdapter
from tests.backends.llamacpp.asking import IDS, keeping, said, textInput, tokenInput
from tests.backends.llamacpp.chat_templates import CHATML, OWN_SYSTEM
from tests.backends.llamacpp.rigged import CACHES, Rigged, failing, failingLate, held
from tests.backends.llamacpp.running import greedy
from tests.backends.runs import Run

RANDOM = {"style": "random"}


def firstTurn(model):
    """The places of "hi" where nothing comes before it."""
    return model._loaded.vocabulary.tokenize(model._prompting.turns.first("hi", "user", True), 999)


class TestConversation:
    """What the model reads of a history is what the template makes of the whole conversation."""

    @pytest.mark.parametrize("template", [CHATML, OWN_SYSTEM])
    @pytest.mark.parametrize(
        ("ending", "answer"), [("stop", "abc"), ("length", "ab"), ("abort", "ab")], ids=["stop", "length", "abort"]
    )
    def test_two_turns(self, load, template, ending, answer):
        model = load({"style": "cycle", "eosAfter": "c", "chatTemplate": template})

        def onResult(result, state):
            if ending == "abort" and result.text == "b":
                model.abort()

        first = Run(model, textInput("hi"), keeping(2 if ending == "length" else 10), onResult)
        assert (first.text, first.reason) == (answer, ending)
        second = Run(model, textInput("you"), keeping(3))
        assert second.text == "abc"
        turns = [("user", "hi"), ("assistant", answer), ("user", "you")]
        messages = [{"role": role, "content": content} for role, content in turns]
        whole = ChatTemplate(template).render(messages, enableThinking=True)
        expected = model._loaded.vocabulary.tokenize(whole, 1000)
        assert held(model) == [*expected, *said(second)]

    def test_only_the_new_turn_is_computed(self, load):
        model = load({"style": "cycle", "eosAfter": "c"})
        Run(model, textInput("hi"), keeping(10))
        turn = model._loaded.vocabulary.tokenize("\n<|im_start|>user\nyou<|im_end|>\n<|im_start|>assistant\n", 1000)
        end = 1  # the end token, which was said but not computed
        assert Run(model, textInput("you"), keeping(1)).perf.prefill_tokens == end + len(turn)

    def test_begin_token_comes_once(self, load):
        model = load({**RANDOM, "chatTemplate": None, "addBegin": True})
        for _ in range(3):
            Run(model, "hi", keeping(1))
        assert [place for place in held(model) if place == held(model)[0]] == held(model)[:1]

    def test_answer_depends_on_the_history(self, load):
        model = load(RANDOM)
        history = [*IDS[:90], *said(Run(model, tokenInput(IDS[:90]), keeping(9)))]
        answer = said(Run(model, tokenInput(IDS[100:110]), keeping(20)))
        assert answer == said(Run(load(RANDOM), tokenInput([*history, *IDS[100:110]]), greedy(max_new_tokens=20)))
        assert answer != said(Run(load(RANDOM), tokenInput(IDS[100:110]), greedy(max_new_tokens=20)))
        assert held(model) == [*history, *IDS[100:110], *answer]

    def test_run_that_does_not_keep_it_ends_it(self, load):
        model = load(RANDOM)
        Run(model, tokenInput(IDS[:9]), keeping())
        answer = said(Run(model, tokenInput(IDS[20:30]), greedy(max_new_tokens=4)))
        assert held(model) == [*IDS[20:30], *answer]
        answer = said(Run(model, tokenInput(IDS[30:40]), keeping()))
        assert held(model) == [*IDS[30:40], *answer]

    def test_first_turn_behind_a_run_that_kept_nothing(self, load):
        model = load({"style": "cycle", "chatTemplate": OWN_SYSTEM})
        Run(model, textInput("hi"), greedy(max_new_tokens=4))
        Run(model, textInput("hi"), keeping(1))
        assert held(model)[:-1] == firstTurn(model)

    def test_other_adapter_computes_it_again(self, load, adapters):
        model, fresh = load(RANDOM), load(RANDOM)
        for each in (model, fresh):
            loadAdapter(each, adapters(), "a", 0.5)
        history = [*IDS[:90], *said(Run(model, tokenInput(IDS[:90]), keeping(9)))]
        second = Run(model, tokenInput(IDS[100:110]), keeping(9, **chosen("a")))
        assert second.perf.prefill_tokens == len(history) + 10
        whole = tokenInput([*history, *IDS[100:110]])
        assert said(second) == said(Run(fresh, whole, greedy(max_new_tokens=9, **chosen("a"))))
        assert said(second) != said(Run(fresh, whole, greedy(max_new_tokens=9)))
        third = Run(model, tokenInput([7]), keeping(9, **chosen("a")))
        assert third.perf.prefill_tokens == 2

    @pytest.mark.parametrize("change", ["setChatTemplate", "setFunctionTools"])
    def test_other_template_forgets_it(self, load, change):
        model = load(RANDOM)
        Run(model, textInput("hi"), keeping())
        getattr(model, change)("", "[]" if change == "setFunctionTools" else "", "")
        assert held(model) == []
        Run(model, textInput("hi"), keeping(1))
        assert held(model)[:-1] == firstTurn(model)


class TestTroubleInAHistory:
    @pytest.fixture(params=CACHES)
    def rigged(self, request):
        return Rigged(request.param)

    @pytest.fixture
    def model(self, rigged, load):
        return load(RANDOM, rigged.runtime)

    def test_abort_in_prefill_undoes_the_turn(self, rigged, model, load):
        answer = said(Run(model, tokenInput(IDS[:70]), keeping()))
        rigged.atDecode(2, lambda compute: model.abort() or compute())
        run = Run(model, tokenInput(IDS[100:250]), keeping())
        assert (run.reason, run.results) == ("abort", [])
        assert held(model) == [*IDS[:70], *answer]
        self.goesOn(model, load)

    def test_abort_in_decode_keeps_what_was_said(self, rigged, model, load):
        rigged.atDecode(5, lambda compute: model.abort() or compute())
        run = Run(model, tokenInput(IDS[:70]), keeping(9))
        assert (run.reason, len(said(run))) == ("abort", 3)
        assert held(model) == [*IDS[:70], *said(run)]
        self.goesOn(model, load)

    @pytest.mark.parametrize("failure", [failing, failingLate])
    @pytest.mark.parametrize("number", [1, 2, 3, 4])
    def test_failure_undoes_the_turn(self, rigged, model, load, failure, number):
        answer = said(Run(model, tokenInput(IDS[:70]), keeping()))
        rigged.atDecode(number, failure)
        with pytest.raises(RuntimeCallFailed):
            Run(model, tokenInput(IDS[100:150]), keeping())
        assert held(model) == [*IDS[:70], *answer]
        self.goesOn(model, load)

    @pytest.mark.parametrize("failure", [failing, failingLate])
    def test_failure_of_the_first_turn_leaves_no_history(self, rigged, load, failure):
        model = load({"style": "cycle", "chatTemplate": OWN_SYSTEM}, rigged.runtime)
        rigged.atDecode(3, failure)
        with pytest.raises(RuntimeCallFailed):
            Run(model, textInput("hi"), keeping())
        held(model)
        assert Run(model, textInput("hi"), keeping(3)).text == "abc"
        assert held(model)[:-3] == firstTurn(model)

    @staticmethod
    def goesOn(model, load):
        before = held(model)
        answer = said(Run(model, tokenInput([7]), keeping(20)))
        assert held(model) == [*before, 7, *answer]
        assert answer == said(Run(load(RANDOM), tokenInput([*before, 7]), greedy(max_new_tokens=20)))


class TestClearing:
    def test_whole(self, load):
        model = load({"style": "cycle", "chatTemplate": OWN_SYSTEM})
        Run(model, textInput("hi"), keeping())
        before = held(model)
        model.clearKVCache(False, None)
        assert held(model) == []
        assert Run(model, textInput("hi"), keeping()).perf.prefill_tokens == len(before) - 4
        assert held(model) == before

    def test_all_but_the_system_prompt(self, load):
        model = load({"style": "cycle", "chatTemplate": OWN_SYSTEM})
        Run(model, textInput("hi"), keeping())
        before = held(model)
        model.clearKVCache(True, None)
        assert held(model) == model._loaded.vocabulary.tokenize("<|im_start|>system\nI am Tiny.<|im_end|>", 99)
        Run(model, textInput("hi"), keeping())
        assert held(model) == before

    def test_all_but_a_system_prompt_that_is_not_there(self, load):
        model = load({"style": "cycle", "chatTemplate": OWN_SYSTEM})
        model.clearKVCache(True, None)
        Run(model, tokenInput(IDS[:20]), keeping())
        model.clearKVCache(True, None)
        assert held(model) == []

    @pytest.mark.parametrize("cache", CACHES)
    @pytest.mark.parametrize(
        ("start", "end", "left"),
        [
            (10, 20, [*IDS[:10], *IDS[20:50]]),
            (0, 20, IDS[20:50]),
            (49, 50, IDS[:49]),
            (10, 53, IDS[:10]),
            (30, 52, IDS[:30]),
        ],
    )
    def test_ranges(self, load, cache, start, end, left):
        model = load(RANDOM, Rigged(cache).runtime)
        answer = said(Run(model, tokenInput(IDS[:50]), keeping(4)))
        assert model.getKVCacheSize() == [53]
        model.clearKVCache(False, [(start, end)])
        behind = [] if end == 53 else [*answer[max(0, end - 50) :]]
        assert held(model) == [*left, *behind]
        before = held(model)
        again = said(Run(model, tokenInput([7, 8]), keeping(9)))
        assert held(model) == [*before, 7, 8, *again]
        if cache != "shifts":  # what moved still knows what is gone
            assert again == said(Run(load(RANDOM), tokenInput([*before, 7, 8]), greedy(max_new_tokens=9)))

    def test_range_of_everything_leaves_no_history(self, load):
        model = load({"style": "cycle", "chatTemplate": OWN_SYSTEM})
        Run(model, textInput("hi"), keeping())
        before = held(model)
        model.clearKVCache(False, [(0, len(before) - 1)])
        assert held(model) == []
        Run(model, textInput("hi"), keeping())
        assert held(model) == before

    def test_bad_ranges_change_nothing(self, load):
        model = load(RANDOM, extend_param=RKLLMExtendParam(n_batch=2))
        Run(model, [tokenInput(IDS[:9]), tokenInput(IDS[:5])], keeping(3))
        assert model.getKVCacheSize() == [11, 7]
        for ranges, message in (
            ([(0, 1)], r"\$\.start_pos: expected 2 numbers, as n_batch, got 1"),
            ([(0, 1), (0, 8)], r"\$\.end_pos\[1\]: expected at most 7, the tokens in the cache, got 8"),
            ([(5, 12), (0, 1)], r"\$\.end_pos\[0\]: expected at most 11, the tokens in the cache, got 12"),
        ):
            with pytest.raises(InvalidParams, match=message):
                model.clearKVCache(False, ranges)
        assert (len(held(model, 0)), len(held(model, 1))) == (12, 8)
        model.clearKVCache(False, [(0, 2), (3, 7)])
        assert held(model, 0)[:7] == IDS[2:9]
        assert held(model, 1) == IDS[:3]

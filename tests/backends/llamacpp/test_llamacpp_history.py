"""Which places a sequence holds: histories, reuse, full contexts, clearing; and that the KV cache holds just these."""

from __future__ import annotations

import pytest

from rkllm_twisted.backends.llamacpp.context import BLOCK
from rkllm_twisted.backends.llamacpp.template import ChatTemplate
from rkllm_twisted.errors import InvalidParams, PromptTooLong, RuntimeCallFailed
from rkllm_twisted.values import (
    InferMode,
    RKLLMExtendParam,
    RKLLMInput,
    RKLLMLoraAdapter,
    RKLLMLoraParam,
)
from tests.backends.llamacpp.chat_templates import BROKEN, CHATML, OWN_SYSTEM
from tests.backends.llamacpp.rigged import CACHES, Rigged, held, said, tokens
from tests.backends.llamacpp.running import WHOLE, Run, greedy
from tests.tiny_model import writeAdapter

RANDOM = {"style": "random"}
IDS = [5 + place * 7 % 250 for place in range(400)]


def text(prompt):
    return RKLLMInput(prompt_input=prompt, enable_thinking=True)


def keeping(count=4, **fields):
    return greedy(max_new_tokens=count, keep_history=1, **fields)


def firstTurn(model):
    """The places of "hi" where nothing comes before it."""
    return model._loaded.vocabulary.tokenize(model._prompting.turns.first("hi", "user", True), 999)


def failing(compute):
    return -3


def failingLate(compute):
    compute()
    return -3


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

        first = Run(model, text("hi"), keeping(2 if ending == "length" else 10), onResult)
        assert (first.text, first.reason) == (answer, ending)
        second = Run(model, text("you"), keeping(3))
        assert second.text == "abc"
        turns = [("user", "hi"), ("assistant", answer), ("user", "you")]
        messages = [{"role": role, "content": content} for role, content in turns]
        whole = ChatTemplate(template).render(messages, enableThinking=True)
        expected = model._loaded.vocabulary.tokenize(whole, 1000)
        assert held(model) == [*expected, *said(second)]

    def test_only_the_new_turn_is_computed(self, load):
        model = load({"style": "cycle", "eosAfter": "c"})
        Run(model, text("hi"), keeping(10))
        turn = model._loaded.vocabulary.tokenize("\n<|im_start|>user\nyou<|im_end|>\n<|im_start|>assistant\n", 1000)
        end = 1  # the end token, which was said but not computed
        assert Run(model, text("you"), keeping(1)).perf.prefill_tokens == end + len(turn)

    def test_begin_token_comes_once(self, load):
        model = load({**RANDOM, "chatTemplate": None, "addBegin": True})
        for _ in range(3):
            Run(model, "hi", keeping(1))
        assert [place for place in held(model) if place == held(model)[0]] == held(model)[:1]

    def test_answer_depends_on_the_history(self, load):
        model = load(RANDOM)
        history = [*IDS[:90], *said(Run(model, tokens(IDS[:90]), keeping(9)))]
        answer = said(Run(model, tokens(IDS[100:110]), keeping(20)))
        assert answer == said(Run(load(RANDOM), tokens([*history, *IDS[100:110]]), greedy(max_new_tokens=20)))
        assert answer != said(Run(load(RANDOM), tokens(IDS[100:110]), greedy(max_new_tokens=20)))
        assert held(model) == [*history, *IDS[100:110], *answer]

    def test_run_that_does_not_keep_it_ends_it(self, load):
        model = load(RANDOM)
        Run(model, tokens(IDS[:9]), keeping())
        answer = said(Run(model, tokens(IDS[20:30]), greedy(max_new_tokens=4)))
        assert held(model) == [*IDS[20:30], *answer]
        answer = said(Run(model, tokens(IDS[30:40]), keeping()))
        assert held(model) == [*IDS[30:40], *answer]

    def test_first_turn_behind_a_run_that_kept_nothing(self, load):
        model = load({"style": "cycle", "chatTemplate": OWN_SYSTEM})
        Run(model, text("hi"), greedy(max_new_tokens=4))
        Run(model, text("hi"), keeping(1))
        assert held(model)[:-1] == firstTurn(model)

    def test_other_adapter_computes_it_again(self, load, tmp_path):
        adapter = RKLLMLoraAdapter(
            lora_adapter_path=str(writeAdapter(tmp_path / "lora.gguf")), lora_adapter_name="a", scale=0.5
        )
        model, fresh = load(RANDOM), load(RANDOM)
        for each in (model, fresh):
            each.loadLora(adapter)
        chosen = {"lora_params": RKLLMLoraParam(lora_adapter_name="a")}
        history = [*IDS[:90], *said(Run(model, tokens(IDS[:90]), keeping(9)))]
        second = Run(model, tokens(IDS[100:110]), keeping(9, **chosen))
        assert second.perf.prefill_tokens == len(history) + 10
        whole = tokens([*history, *IDS[100:110]])
        assert said(second) == said(Run(fresh, whole, greedy(max_new_tokens=9, **chosen)))
        assert said(second) != said(Run(fresh, whole, greedy(max_new_tokens=9)))
        third = Run(model, tokens([7]), keeping(9, **chosen))
        assert third.perf.prefill_tokens == 2

    @pytest.mark.parametrize("change", ["setChatTemplate", "setFunctionTools"])
    def test_other_template_forgets_it(self, load, change):
        model = load(RANDOM)
        Run(model, text("hi"), keeping())
        getattr(model, change)("", "[]" if change == "setFunctionTools" else "", "")
        assert held(model) == []
        Run(model, text("hi"), keeping(1))
        assert held(model)[:-1] == firstTurn(model)


class TestTroubleInAHistory:
    @pytest.fixture(params=CACHES)
    def rigged(self, request):
        return Rigged(request.param)

    @pytest.fixture
    def model(self, rigged, load):
        return load(RANDOM, rigged.runtime)

    def test_abort_in_prefill_undoes_the_turn(self, rigged, model, load):
        answer = said(Run(model, tokens(IDS[:70]), keeping()))
        rigged.atDecode(2, lambda compute: model.abort() or compute())
        run = Run(model, tokens(IDS[100:250]), keeping())
        assert (run.reason, run.results) == ("abort", [])
        assert held(model) == [*IDS[:70], *answer]
        self.goesOn(model, load)

    def test_abort_in_decode_keeps_what_was_said(self, rigged, model, load):
        rigged.atDecode(5, lambda compute: model.abort() or compute())
        run = Run(model, tokens(IDS[:70]), keeping(9))
        assert (run.reason, len(said(run))) == ("abort", 3)
        assert held(model) == [*IDS[:70], *said(run)]
        self.goesOn(model, load)

    @pytest.mark.parametrize("failure", [failing, failingLate])
    @pytest.mark.parametrize("number", [1, 2, 3, 4])
    def test_failure_undoes_the_turn(self, rigged, model, load, failure, number):
        answer = said(Run(model, tokens(IDS[:70]), keeping()))
        rigged.atDecode(number, failure)
        with pytest.raises(RuntimeCallFailed):
            Run(model, tokens(IDS[100:150]), keeping())
        assert held(model) == [*IDS[:70], *answer]
        self.goesOn(model, load)

    @pytest.mark.parametrize("failure", [failing, failingLate])
    def test_failure_of_the_first_turn_leaves_no_history(self, rigged, load, failure):
        model = load({"style": "cycle", "chatTemplate": OWN_SYSTEM}, rigged.runtime)
        rigged.atDecode(3, failure)
        with pytest.raises(RuntimeCallFailed):
            Run(model, text("hi"), keeping())
        held(model)
        assert Run(model, text("hi"), keeping(3)).text == "abc"
        assert held(model)[:-3] == firstTurn(model)

    @staticmethod
    def goesOn(model, load):
        before = held(model)
        answer = said(Run(model, tokens([7]), keeping(20)))
        assert held(model) == [*before, 7, *answer]
        assert answer == said(Run(load(RANDOM), tokens([*before, 7]), greedy(max_new_tokens=20)))


class TestReuse:
    """Of what is the same, without a history."""

    def test_is_of_whole_blocks(self, load):
        for length in (1, 63, 64, 65, 128, 129, 200):
            model = load(RANDOM)
            counts = [Run(model, tokens(IDS[:length]), greedy(max_new_tokens=3)).perf.prefill_tokens for _ in range(2)]
            assert counts == [length, length - (length - 1) // BLOCK * BLOCK]

    def test_ends_where_prompts_differ(self, load):
        for shared in (0, 1, 63, 64, 65, 127, 128, 140):
            model = load(RANDOM)
            Run(model, tokens(IDS[:200]), greedy(max_new_tokens=3))
            run = Run(model, tokens([*IDS[:shared], *IDS[210:230]]), greedy(max_new_tokens=3))
            assert run.perf.prefill_tokens == shared % BLOCK + 20
            assert held(model) == [*IDS[:shared], *IDS[210:230], *said(run)]

    def test_gives_the_same_answer_to_the_bit(self, load):
        for length in (64, 65, 150, 200):
            prompt, model = tokens(IDS[:length]), load(RANDOM)
            answers = []
            for before in (prompt, prompt, tokens(IDS[:260]), tokens([*IDS[:130], 9]), tokens([9])):
                Run(model, before, greedy(max_new_tokens=30))
                Run(model, prompt, greedy(max_new_tokens=1))
                answers.append(model._context.logits(1))
            assert answers == answers[:1] * 5
            assert len(answers[0]) == model._context.vocabularySize * 4

    def test_is_not_of_answers(self, load):
        model = load(RANDOM)
        Run(model, tokens([*IDS[:70], *IDS[200:330]]), greedy(max_new_tokens=1))
        answer = said(Run(model, tokens(IDS[:100]), greedy(max_new_tokens=60)))
        run = Run(model, tokens([*IDS[:100], *answer]), greedy(max_new_tokens=1))
        assert run.perf.prefill_tokens == 100 + len(answer) - BLOCK

    def test_is_not_of_later_turns(self, load):
        model = load(RANDOM)
        answer = said(Run(model, tokens(IDS[:70]), keeping(70)))
        Run(model, tokens(IDS[70:270]), keeping(1))
        places = [*IDS[:70], *answer, *IDS[70:270]]
        assert Run(model, tokens(places), greedy(max_new_tokens=1)).perf.prefill_tokens == len(places) - BLOCK

    def test_is_not_for_who_wants_rows(self, load):
        model = load(RANDOM)
        Run(model, tokens(IDS[:99]), greedy(max_new_tokens=1))
        for mode in (InferMode.RKLLM_INFER_GET_LOGITS, InferMode.RKLLM_INFER_GET_LAST_HIDDEN_LAYER):
            assert Run(model, tokens(IDS[:99]), greedy(max_new_tokens=1, mode=mode)).perf.prefill_tokens == 99

    def test_is_not_of_another_adapter(self, load, tmp_path):
        model = load(RANDOM)
        model.loadLora(
            RKLLMLoraAdapter(lora_adapter_path=str(writeAdapter(tmp_path / "lora.gguf")), lora_adapter_name="a")
        )
        chosen = RKLLMLoraParam(lora_adapter_name="a")
        runs = [
            Run(model, tokens(IDS[:99]), greedy(max_new_tokens=9, lora_params=of))
            for of in (None, chosen, chosen, None)
        ]
        assert [run.perf.prefill_tokens for run in runs] == [99, 99, 35, 99]
        assert runs[0].tokens == runs[3].tokens != runs[1].tokens == runs[2].tokens

    def test_is_of_what_an_aborted_prompt_has_computed(self, load):
        rigged = Rigged()
        model = load(RANDOM, rigged.runtime)
        Run(model, tokens([9]), keeping())  # a history, which ends here
        rigged.atDecode(3, lambda compute: model.abort() or compute())
        assert Run(model, tokens(IDS[:200])).reason == "abort"
        assert held(model) == IDS[:128]
        run = Run(model, tokens(IDS[:200]), greedy(max_new_tokens=20))
        assert run.perf.prefill_tokens == 72
        assert run.tokens == Run(load(RANDOM), tokens(IDS[:200]), greedy(max_new_tokens=20)).tokens

    def test_is_not_of_places_that_moved(self, load):
        model = load(RANDOM)
        Run(model, tokens(IDS[:200]), greedy(max_new_tokens=3))
        model.clearKVCache(False, [(70, 80)])
        run = Run(model, tokens([*IDS[:70], *IDS[80:200]]), greedy(max_new_tokens=1))
        assert run.perf.prefill_tokens == 190 - BLOCK

    @pytest.mark.parametrize("cache", ["stays", "whole"])
    def test_where_places_cannot_move(self, load, cache):
        model = load(RANDOM, Rigged(cache).runtime)
        Run(model, tokens(IDS[:200]), greedy(max_new_tokens=3))
        run = Run(model, tokens([*IDS[:100], 9]), greedy(max_new_tokens=20))
        assert run.perf.prefill_tokens == (101 if cache == "whole" else 37)
        assert said(run) == said(Run(load(RANDOM), tokens([*IDS[:100], 9]), greedy(max_new_tokens=20)))
        assert held(model) == [*IDS[:100], 9, *said(run)]


def dropping(places, keep, length):
    """What is left of places that do not fit."""
    count = max(len(places) - length, (len(places) - keep) // 2)
    return places if len(places) <= length else [*places[:keep], *places[keep + count :]]


@pytest.mark.parametrize("cache", CACHES)
class TestFullContext:
    @pytest.mark.parametrize("keep", [0, 4, 30, 38, 39])
    def test_drops_the_oldest_places_behind_those_that_stay(self, load, cache, keep):
        model = load(RANDOM, Rigged(cache).runtime, max_context_len=40, n_keep=keep)
        run = Run(model, tokens(IDS[:30]), greedy(max_new_tokens=150))
        assert (len(said(run)), run.reason) == (150, "length")
        expected = IDS[:30]
        for token in said(run):
            expected = [*dropping(expected, keep, 40), token]
        assert held(model) == expected
        assert model.getKVCacheSize() == [len(expected) - 1]

    def test_of_a_history_makes_room_for_the_turn(self, load, cache):
        model = load(RANDOM, Rigged(cache).runtime, max_context_len=100, n_keep=5)
        before = [*IDS[:60], *said(Run(model, tokens(IDS[:60]), keeping(10)))]
        answer = said(Run(model, tokens(IDS[100:150]), keeping(10)))
        assert held(model) == [*before[:5], *before[5 + 32 :], *IDS[100:150], *answer]

    def test_drops_more_than_half_for_a_long_turn(self, load, cache):
        model = load(RANDOM, Rigged(cache).runtime, max_context_len=100, n_keep=5)
        before = [*IDS[:60], *said(Run(model, tokens(IDS[:60]), keeping(10)))]
        answer = said(Run(model, tokens(IDS[100:190]), keeping(1)))
        assert held(model) == [*before[:5], *before[66:], *IDS[100:190], *answer]
        assert len(held(model)) == 100

    def test_turn_without_room_behind_what_stays(self, load, cache):
        model = load(RANDOM, Rigged(cache).runtime, max_context_len=100, n_keep=5)
        Run(model, tokens(IDS[:60]), keeping(10))
        before = held(model)
        with pytest.raises(PromptTooLong) as caught:
            Run(model, tokens(IDS[100:195]), keeping(1))
        assert caught.value.data == {"tokens": 100, "limit": 100}
        assert held(model) == before
        Run(model, tokens(IDS[100:194]), keeping(1))
        assert held(model)[:-1] == [*before[:5], *IDS[100:194]]

    def test_failure_after_it_undoes_what_is_left_of_the_turn(self, load, cache):
        rigged = Rigged(cache)
        model = load(RANDOM, rigged.runtime, max_context_len=60, n_keep=3)
        before = [*IDS[:20], *said(Run(model, tokens(IDS[:20]), keeping(10)))]
        rigged.atDecode(25, failing)
        with pytest.raises(RuntimeCallFailed):
            Run(model, tokens(IDS[100:120]), keeping(30))
        assert held(model) == [*before[:3], *before[3 + 29 :]]


def test_places_that_move_are_not_computed_again(load):
    rigged, sizes = Rigged(), []
    decode = rigged.library.c.llama_decode
    rigged.answers["llama_decode"] = lambda context, batch: sizes.append(batch.n_tokens) or decode(context, batch)
    Run(load(RANDOM, rigged.runtime, max_context_len=40, n_keep=4), tokens(IDS[:30]), greedy(max_new_tokens=50))
    assert sizes == [30, *[1] * 49]


@pytest.mark.parametrize("cache", ["stays", "whole"])
def test_recomputed_places_say_what_they_say_alone(load, cache):
    model, asked = load(RANDOM, Rigged(cache).runtime, max_context_len=80, n_keep=5), []
    run = Run(
        model,
        tokens(IDS[:70]),
        greedy(max_new_tokens=40),
        lambda result, state: asked.append(list(model._sequences[0].places)),
    )
    fresh = load(RANDOM)
    for places in (asked[11], asked[25], asked[39]):
        assert said(Run(fresh, tokens(places[:-1]), greedy(max_new_tokens=1))) == places[-1:]
    assert len(said(run)) == 40


class TestFullContextOfTexts:
    def test_keeps_the_system_prompt(self, load):
        model = load({"style": "cycle", "chatTemplate": OWN_SYSTEM}, max_context_len=90)
        system = model._loaded.vocabulary.tokenize("<|im_start|>system\nI am Tiny.<|im_end|>", 99)
        for turn in range(9):
            assert Run(model, text("hello"), keeping(10)).text == "abcdefghij"
            assert held(model)[: len(system)] == system, turn
        assert len(held(model)) <= 90

    def test_most_tokens_end_it_instead(self, load):
        model = load(RANDOM, max_context_len=100, max_new_tokens=-1)
        runs = [Run(model, tokens(IDS[:20]), keeping(0)) for _ in range(2)]
        assert [run.reason for run in runs] == ["length", "length"]
        assert len(said(runs[0])) == 80
        assert len(held(model)) == 100

    def test_with_a_template_that_is_broken(self, load):
        model = load({**RANDOM, "chatTemplate": BROKEN}, max_context_len=40)
        assert len(said(Run(model, tokens(IDS[:30]), greedy(max_new_tokens=50)))) == 50
        model.clearKVCache(True, None)
        assert held(model) == []

    def test_with_a_system_prompt_that_could_never_fit(self, load):
        model = load(RANDOM, max_context_len=40)
        model.setChatTemplate("Be brief. " * 1000, "", "")
        assert len(said(Run(model, tokens(IDS[:30]), greedy(max_new_tokens=50)))) == 50
        model.clearKVCache(True, None)
        assert held(model) == []

    @pytest.mark.parametrize(("limit", "asked", "context"), [(300, 0, 300), (2048, 100, 100), (9000, 0, 2048)])
    def test_more_cannot_stay_than_there_is(self, load, limit, asked, context):
        with pytest.raises(
            InvalidParams, match=rf"n_keep: expected less than the context of {context} tokens, got {context}"
        ):
            load({**RANDOM, "contextLength": limit}, max_context_len=asked, n_keep=context)
        load({**RANDOM, "contextLength": limit}, max_context_len=asked, n_keep=context - 1)


class TestClearing:
    def test_whole(self, load):
        model = load({"style": "cycle", "chatTemplate": OWN_SYSTEM})
        Run(model, text("hi"), keeping())
        before = held(model)
        model.clearKVCache(False, None)
        assert held(model) == []
        assert Run(model, text("hi"), keeping()).perf.prefill_tokens == len(before) - 4
        assert held(model) == before

    def test_all_but_the_system_prompt(self, load):
        model = load({"style": "cycle", "chatTemplate": OWN_SYSTEM})
        Run(model, text("hi"), keeping())
        before = held(model)
        model.clearKVCache(True, None)
        assert held(model) == model._loaded.vocabulary.tokenize("<|im_start|>system\nI am Tiny.<|im_end|>", 99)
        Run(model, text("hi"), keeping())
        assert held(model) == before

    def test_all_but_a_system_prompt_that_is_not_there(self, load):
        model = load({"style": "cycle", "chatTemplate": OWN_SYSTEM})
        model.clearKVCache(True, None)
        Run(model, tokens(IDS[:20]), keeping())
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
        answer = said(Run(model, tokens(IDS[:50]), keeping(4)))
        assert model.getKVCacheSize() == [53]
        model.clearKVCache(False, [(start, end)])
        behind = [] if end == 53 else [*answer[max(0, end - 50) :]]
        assert held(model) == [*left, *behind]
        before = held(model)
        again = said(Run(model, tokens([7, 8]), keeping(9)))
        assert held(model) == [*before, 7, 8, *again]
        if cache != "shifts":  # what moved still knows what is gone
            assert again == said(Run(load(RANDOM), tokens([*before, 7, 8]), greedy(max_new_tokens=9)))

    def test_range_of_everything_leaves_no_history(self, load):
        model = load({"style": "cycle", "chatTemplate": OWN_SYSTEM})
        Run(model, text("hi"), keeping())
        before = held(model)
        model.clearKVCache(False, [(0, len(before) - 1)])
        assert held(model) == []
        Run(model, text("hi"), keeping())
        assert held(model) == before

    def test_bad_ranges_change_nothing(self, load):
        model = load(RANDOM, extend_param=RKLLMExtendParam(n_batch=2))
        model.prepare()
        model.runBatch([tokens(IDS[:9]), tokens(IDS[:5])], keeping(3), lambda result, state: None, WHOLE)
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

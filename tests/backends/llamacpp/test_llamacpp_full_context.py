"""Contexts that are full: which places make room, and that the KV cache holds the others."""

from __future__ import annotations

import pytest

from rkllm_twisted.errors import InvalidParams, PromptTooLong, RuntimeCallFailed
from tests.backends.llamacpp.asking import IDS, keeping, said, textInput, tokenInput
from tests.backends.llamacpp.chat_templates import BROKEN, OWN_SYSTEM
from tests.backends.llamacpp.rigged import CACHES, Rigged, failing, held
from tests.backends.llamacpp.running import greedy
from tests.backends.runs import Run

RANDOM = {"style": "random"}


def dropping(places, keep, length):
    """What is left of places that do not fit."""
    count = max(len(places) - length, (len(places) - keep) // 2)
    return places if len(places) <= length else [*places[:keep], *places[keep + count :]]


@pytest.mark.parametrize("cache", CACHES)
class TestFullContext:
    @pytest.mark.parametrize("keep", [0, 4, 30, 38, 39])
    def test_drops_the_oldest_places_behind_those_that_stay(self, load, cache, keep):
        model = load(RANDOM, Rigged(cache).runtime, max_context_len=40, n_keep=keep)
        run = Run(model, tokenInput(IDS[:30]), greedy(max_new_tokens=150))
        assert (len(said(run)), run.reason) == (150, "length")
        expected = IDS[:30]
        for token in said(run):
            expected = [*dropping(expected, keep, 40), token]
        assert held(model) == expected
        assert model.getKVCacheSize() == [len(expected) - 1]

    def test_of_a_history_makes_room_for_the_turn(self, load, cache):
        model = load(RANDOM, Rigged(cache).runtime, max_context_len=100, n_keep=5)
        before = [*IDS[:60], *said(Run(model, tokenInput(IDS[:60]), keeping(10)))]
        answer = said(Run(model, tokenInput(IDS[100:150]), keeping(10)))
        assert held(model) == [*before[:5], *before[5 + 32 :], *IDS[100:150], *answer]

    def test_drops_more_than_half_for_a_long_turn(self, load, cache):
        model = load(RANDOM, Rigged(cache).runtime, max_context_len=100, n_keep=5)
        before = [*IDS[:60], *said(Run(model, tokenInput(IDS[:60]), keeping(10)))]
        answer = said(Run(model, tokenInput(IDS[100:190]), keeping(1)))
        assert held(model) == [*before[:5], *before[66:], *IDS[100:190], *answer]
        assert len(held(model)) == 100

    def test_turn_without_room_behind_what_stays(self, load, cache):
        model = load(RANDOM, Rigged(cache).runtime, max_context_len=100, n_keep=5)
        Run(model, tokenInput(IDS[:60]), keeping(10))
        before = held(model)
        with pytest.raises(PromptTooLong) as caught:
            Run(model, tokenInput(IDS[100:195]), keeping(1))
        assert caught.value.data == {"tokens": 100, "limit": 100}
        assert held(model) == before
        Run(model, tokenInput(IDS[100:194]), keeping(1))
        assert held(model)[:-1] == [*before[:5], *IDS[100:194]]

    def test_failure_after_it_undoes_what_is_left_of_the_turn(self, load, cache):
        rigged = Rigged(cache)
        model = load(RANDOM, rigged.runtime, max_context_len=60, n_keep=3)
        before = [*IDS[:20], *said(Run(model, tokenInput(IDS[:20]), keeping(10)))]
        rigged.atDecode(25, failing)
        with pytest.raises(RuntimeCallFailed):
            Run(model, tokenInput(IDS[100:120]), keeping(30))
        assert held(model) == [*before[:3], *before[3 + 29 :]]


def test_places_that_move_are_not_computed_again(load):
    rigged, sizes = Rigged(), []
    decode = rigged.library.c.llama_decode
    rigged.answers["llama_decode"] = lambda context, batch: sizes.append(batch.n_tokens) or decode(context, batch)
    Run(load(RANDOM, rigged.runtime, max_context_len=40, n_keep=4), tokenInput(IDS[:30]), greedy(max_new_tokens=50))
    assert sizes == [30, *[1] * 49]


@pytest.mark.parametrize("cache", ["stays", "whole"])
def test_recomputed_places_say_what_they_say_alone(load, cache):
    model, asked = load(RANDOM, Rigged(cache).runtime, max_context_len=80, n_keep=5), []
    run = Run(
        model,
        tokenInput(IDS[:70]),
        greedy(max_new_tokens=40),
        lambda result, state: asked.append(list(model._sequences[0].places)),
    )
    fresh = load(RANDOM)
    for places in (asked[11], asked[25], asked[39]):
        assert said(Run(fresh, tokenInput(places[:-1]), greedy(max_new_tokens=1))) == places[-1:]
    assert len(said(run)) == 40


class TestFullContextOfTexts:
    def test_keeps_the_system_prompt(self, load):
        model = load({"style": "cycle", "chatTemplate": OWN_SYSTEM}, max_context_len=90)
        system = model._loaded.vocabulary.tokenize("<|im_start|>system\nI am Tiny.<|im_end|>", 99)
        for turn in range(9):
            assert Run(model, textInput("hello"), keeping(10)).text == "abcdefghij"
            assert held(model)[: len(system)] == system, turn
        assert len(held(model)) <= 90

    def test_most_tokens_end_it_instead(self, load):
        model = load(RANDOM, max_context_len=100, max_new_tokens=-1)
        runs = [Run(model, tokenInput(IDS[:20]), keeping(0)) for _ in range(2)]
        assert [run.reason for run in runs] == ["length", "length"]
        assert len(said(runs[0])) == 80
        assert len(held(model)) == 100

    def test_with_a_template_that_is_broken(self, load):
        model = load({**RANDOM, "chatTemplate": BROKEN}, max_context_len=40)
        assert len(said(Run(model, tokenInput(IDS[:30]), greedy(max_new_tokens=50)))) == 50
        model.clearKVCache(True, None)
        assert held(model) == []

    def test_with_a_system_prompt_that_could_never_fit(self, load):
        model = load(RANDOM, max_context_len=40)
        model.setChatTemplate("Be brief. " * 1000, "", "")
        assert len(said(Run(model, tokenInput(IDS[:30]), greedy(max_new_tokens=50)))) == 50
        model.clearKVCache(True, None)
        assert held(model) == []

    @pytest.mark.parametrize(("limit", "asked", "context"), [(300, 0, 300), (2048, 100, 100), (9000, 0, 2048)])
    def test_more_cannot_stay_than_there_is(self, load, limit, asked, context):
        with pytest.raises(
            InvalidParams, match=rf"n_keep: expected less than the context of {context} tokens, got {context}"
        ):
            load({**RANDOM, "contextLength": limit}, max_context_len=asked, n_keep=context)
        load({**RANDOM, "contextLength": limit}, max_context_len=asked, n_keep=context - 1)

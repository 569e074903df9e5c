"""What a run without a history finds computed already, and that it says the same to the bit."""

from __future__ import annotations

import pytest

from rkllm_twisted.backends.llamacpp.context import BLOCK
from rkllm_twisted.values import (
    InferMode,
)
from tests.backends.llamacpp.adapting import chosen, loadAdapter
from tests.backends.llamacpp.asking import IDS, keeping, said, tokenInput
from tests.backends.llamacpp.rigged import Rigged, held
from tests.backends.llamacpp.running import greedy
from tests.backends.runs import Run

RANDOM = {"style": "random"}


class TestReuse:
    def test_is_of_whole_blocks(self, load):
        for length in (1, 63, 64, 65, 128, 129, 200):
            model = load(RANDOM)
            counts = [
                Run(model, tokenInput(IDS[:length]), greedy(max_new_tokens=3)).perf.prefill_tokens for _ in range(2)
            ]
            assert counts == [length, length - (length - 1) // BLOCK * BLOCK]

    def test_ends_where_prompts_differ(self, load):
        for shared in (0, 1, 63, 64, 65, 127, 128, 140):
            model = load(RANDOM)
            Run(model, tokenInput(IDS[:200]), greedy(max_new_tokens=3))
            run = Run(model, tokenInput([*IDS[:shared], *IDS[210:230]]), greedy(max_new_tokens=3))
            assert run.perf.prefill_tokens == shared % BLOCK + 20
            assert held(model) == [*IDS[:shared], *IDS[210:230], *said(run)]

    def test_gives_the_same_answer_to_the_bit(self, load):
        for length in (64, 65, 150, 200):
            prompt, model = tokenInput(IDS[:length]), load(RANDOM)
            answers = []
            for before in (prompt, prompt, tokenInput(IDS[:260]), tokenInput([*IDS[:130], 9]), tokenInput([9])):
                Run(model, before, greedy(max_new_tokens=30))
                Run(model, prompt, greedy(max_new_tokens=1))
                answers.append(model._context.logits(1))
            assert answers == answers[:1] * 5
            assert len(answers[0]) == model._context.vocabularySize * 4

    def test_is_not_of_answers(self, load):
        model = load(RANDOM)
        Run(model, tokenInput([*IDS[:70], *IDS[200:330]]), greedy(max_new_tokens=1))
        answer = said(Run(model, tokenInput(IDS[:100]), greedy(max_new_tokens=60)))
        run = Run(model, tokenInput([*IDS[:100], *answer]), greedy(max_new_tokens=1))
        assert run.perf.prefill_tokens == 100 + len(answer) - BLOCK

    def test_is_not_of_later_turns(self, load):
        model = load(RANDOM)
        answer = said(Run(model, tokenInput(IDS[:70]), keeping(70)))
        Run(model, tokenInput(IDS[70:270]), keeping(1))
        places = [*IDS[:70], *answer, *IDS[70:270]]
        assert Run(model, tokenInput(places), greedy(max_new_tokens=1)).perf.prefill_tokens == len(places) - BLOCK

    def test_is_not_for_who_wants_rows(self, load):
        model = load(RANDOM)
        Run(model, tokenInput(IDS[:99]), greedy(max_new_tokens=1))
        for mode in (InferMode.RKLLM_INFER_GET_LOGITS, InferMode.RKLLM_INFER_GET_LAST_HIDDEN_LAYER):
            assert Run(model, tokenInput(IDS[:99]), greedy(max_new_tokens=1, mode=mode)).perf.prefill_tokens == 99

    def test_is_not_of_another_adapter(self, load, adapters):
        model = load(RANDOM)
        loadAdapter(model, adapters(), "a")
        runs = [
            Run(model, tokenInput(IDS[:99]), greedy(max_new_tokens=9, **fields))
            for fields in ({}, chosen("a"), chosen("a"), {})
        ]
        assert [run.perf.prefill_tokens for run in runs] == [99, 99, 35, 99]
        assert runs[0].tokens == runs[3].tokens != runs[1].tokens == runs[2].tokens

    def test_is_of_what_an_aborted_prompt_has_computed(self, load):
        rigged = Rigged()
        model = load(RANDOM, rigged.runtime)
        Run(model, tokenInput([9]), keeping())  # a history, which ends here
        rigged.atDecode(3, lambda compute: model.abort() or compute())
        assert Run(model, tokenInput(IDS[:200])).reason == "abort"
        assert held(model) == IDS[:128]
        run = Run(model, tokenInput(IDS[:200]), greedy(max_new_tokens=20))
        assert run.perf.prefill_tokens == 72
        assert run.tokens == Run(load(RANDOM), tokenInput(IDS[:200]), greedy(max_new_tokens=20)).tokens

    def test_is_not_of_places_that_moved(self, load):
        model = load(RANDOM)
        Run(model, tokenInput(IDS[:200]), greedy(max_new_tokens=3))
        model.clearKVCache(False, [(70, 80)])
        run = Run(model, tokenInput([*IDS[:70], *IDS[80:200]]), greedy(max_new_tokens=1))
        assert run.perf.prefill_tokens == 190 - BLOCK

    @pytest.mark.parametrize("cache", ["stays", "whole"])
    def test_where_places_cannot_move(self, load, cache):
        model = load(RANDOM, Rigged(cache).runtime)
        Run(model, tokenInput(IDS[:200]), greedy(max_new_tokens=3))
        run = Run(model, tokenInput([*IDS[:100], 9]), greedy(max_new_tokens=20))
        assert run.perf.prefill_tokens == (101 if cache == "whole" else 37)
        assert said(run) == said(Run(load(RANDOM), tokenInput([*IDS[:100], 9]), greedy(max_new_tokens=20)))
        assert held(model) == [*IDS[:100], 9, *said(run)]

"""Aborts of runs: before them, in prefill, between two tokens, and with nothing running."""

from __future__ import annotations

import threading

from tests.backends.llamacpp.asking import tokenInput
from tests.backends.llamacpp.running import greedy
from tests.backends.runs import Run

RANDOM, CYCLE = {"style": "random"}, {"style": "cycle"}


class TestAbort:
    def test_before_the_run_begins(self, recorded):
        model, c = recorded()
        model.prepare()
        model.abort()
        run = Run(model, "hello", greedy(), prepare=False)
        assert (run.reason, run.results, run.perf.prefill_tokens) == ("abort", [], 0)
        assert not c.count("llama_decode")

    def test_during_prefill(self, load):
        """From another thread, as soon as the computation has begun: most of the prompt is then never computed."""
        model = load({"style": "random", "contextLength": 16384}, max_context_len=16384)
        begun, compute = threading.Event(), model._context.compute

        def begin(*arguments):
            begun.set()
            compute(*arguments)

        model._context.compute = begin
        thread = threading.Thread(target=lambda: begun.wait() and model.abort())
        thread.start()
        run = Run(model, tokenInput([5, 6, 7] * 5000), greedy())
        thread.join()
        assert (run.reason, run.results) == ("abort", [])
        assert model.getKVCacheSize()[0] < 10_000

    def test_inside_one_batch(self, load):
        """Also a prompt of a single batch stops: the flag is set when llama_decode begins."""
        model = load(RANDOM)
        baseline = Run(model, "hello", greedy(max_new_tokens=20)).tokens
        compute = model._context.compute

        def stopped(*arguments):
            model.abort()
            return compute(*arguments)

        model._context.compute = stopped
        run = Run(model, "a prompt", greedy(max_new_tokens=20))
        assert (run.reason, run.results, run.perf.prefill_tokens) == ("abort", [], 0)
        model._context.compute = compute
        assert Run(model, "hello", greedy(max_new_tokens=20)).tokens == baseline

    def test_within_one_token(self, load):
        model = load(CYCLE)
        seen = []

        def onResult(result, state):
            seen.append(result.text)
            if len(seen) == 5:
                model.abort()

        run = Run(model, "hello", greedy(), onResult)
        assert (run.text, run.reason) == ("abcde", "abort")

    def test_from_another_thread(self, load):
        model = load({"style": "cycle", "contextLength": 16384}, max_context_len=16384, max_new_tokens=-1)
        begun = threading.Event()

        def abort():
            begun.wait()
            model.abort()
            model.abort()

        thread = threading.Thread(target=abort)
        thread.start()
        run = Run(model, "hello", greedy(), lambda result, state: begun.set())
        thread.join()
        assert run.reason == "abort"
        assert run.perf.prefill_tokens

    def test_with_nothing_running_does_not_touch_the_next_run(self, load):
        model = load(CYCLE)
        model.abort()
        assert Run(model, "hello", greedy(max_new_tokens=3)).text == "abc"

    def test_after_destroy(self, load):
        model = load(CYCLE)
        model.destroy()
        model.abort()
        model.prepare()
        model.destroy()

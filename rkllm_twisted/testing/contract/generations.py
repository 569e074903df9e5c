"""Clauses of what every backend does: objects, a generation, and how it begins and ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec import structs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from rkllm_twisted.errors import ModelBusy, ModelLoadFailed, ModelNotInitialized
from rkllm_twisted.interfaces import IGeneration, IModel, IModelBackend, IResultReceiver
from rkllm_twisted.testing.contract.subject import GREEDY, Subject, asynchronous
from rkllm_twisted.values import Capability, Received, RKLLMSamplingParam


class Generations(Subject):
    """What every backend does."""

    # The objects

    @asynchronous
    async def test_objects_provide_their_interfaces(self, backend: IModelBackend, model: IModel) -> None:
        verifyObject(IModelBackend, backend)
        verifyObject(IModel, model)
        receiver, generation = self.start(model)
        verifyObject(IGeneration, generation)
        await receiver.ended

    def test_default_parameters_are_whole(self, backend: IModelBackend) -> None:
        param = backend.createDefaultParam()
        assert param.model_path == ""
        assert param.max_context_len > 0
        assert param.extend_param.n_batch == 1

    @asynchronous
    async def test_parameters_that_load_pass_the_check(self, backend: IModelBackend) -> None:
        await backend.checkParam(self.makeParam(backend))

    @asynchronous
    async def test_model_that_cannot_be_loaded_is_refused_and_the_next_loads(self, backend: IModelBackend) -> None:
        with pytest.raises(ModelLoadFailed) as refused:
            await backend.checkParam(self.badParam(backend))
        assert refused.value.detail
        with pytest.raises(ModelLoadFailed):
            await backend.init(self.badParam(backend))
        model = await backend.init(self.makeParam(backend))
        await model.destroy()

    # A generation

    @asynchronous
    async def test_generation_gives_results_then_one_ending(self, model: IModel) -> None:
        receiver, _ = self.start(model)
        await receiver.ended
        assert len(receiver.results) >= 5
        assert receiver.text
        assert receiver.reason in ("stop", "length", None)

    @asynchronous
    async def test_nothing_comes_from_inside_run(self, model: IModel) -> None:
        receiver, _ = self.start(model)
        assert not receiver.results
        assert not receiver.endings
        await receiver.ended

    @asynchronous
    async def test_figures_count_the_tokens(self, model: IModel) -> None:
        receiver, _ = self.start(model)
        await receiver.ended
        assert receiver.perf is not None
        assert receiver.perf.prefill_tokens > 0
        count = len(receiver.tokens)
        assert receiver.perf.generate_tokens in (count - 1, count)  # an end token has no result of its own

    @asynchronous
    async def test_generations_follow_one_another(self, model: IModel) -> None:
        for _ in range(3):
            receiver, _ = self.start(model)
            await receiver.ended

    @asynchronous
    async def test_results_are_copies(self, model: IModel) -> None:
        first, _ = self.start(model)
        await first.ended
        before = [structs.asdict(result) for result in first.results]
        second, _ = self.start(model, "something else entirely, and longer than that")
        await second.ended
        assert [structs.asdict(result) for result in first.results] == before

    @asynchronous
    async def test_token_limit_of_a_run(self, model: IModel) -> None:
        self.needs(model, Capability.MAX_NEW_TOKENS_PER_RUN)
        receiver, _ = self.start(model, max_new_tokens=2)
        await receiver.ended
        assert len(receiver.tokens) == 2
        assert receiver.reason == "length"

    @asynchronous
    async def test_sampling_of_a_run(self, backend: IModelBackend) -> None:
        self.needs(backend, Capability.SAMPLING_PER_RUN)
        wild = {"top_k": 40, "top_p": 1.0, "temperature": 5.0, "max_new_tokens": 16}
        model = await backend.init(structs.replace(self.makeParam(backend), **wild))
        runs = [await self.answer(model, sampling_params=RKLLMSamplingParam(**GREEDY)) for _ in range(3)]
        await model.destroy()
        assert runs[0].tokens
        assert runs[0].tokens == runs[1].tokens == runs[2].tokens

    # Clause 1

    @asynchronous
    async def test_second_run_is_busy_and_does_not_disturb_the_first(self, model: IModel) -> None:
        receiver, _ = self.start(model)
        assert model.isRunning()
        with pytest.raises(ModelBusy):
            self.start(model)
        await receiver.ended
        assert not model.isRunning()

    @asynchronous
    async def test_next_run_may_start_in_the_ending_of_the_last(self, model: IModel) -> None:
        first, _ = self.start(model)
        second, _ = await first.ended.addCallback(lambda _: self.start(model))
        await second.ended
        assert second.endings == 1

    # Clause 2

    @asynchronous
    async def test_abort_ends_it_once(self, model: IModel) -> None:
        receiver, generation = self.start(model, self.LONG_PROMPT)
        await receiver.firstResult
        generation.abort()
        generation.abort()
        count = len(receiver.results)
        await receiver.ended
        assert receiver.reason == "abort"
        assert len(receiver.results) == count
        generation.abort()

    @asynchronous
    async def test_abort_before_the_first_result(self, model: IModel) -> None:
        receiver, generation = self.start(model, self.LONG_PROMPT)
        generation.abort()
        await receiver.ended
        assert receiver.reason == "abort"
        assert not receiver.results

    @asynchronous
    async def test_abort_does_not_touch_the_next_run(self, model: IModel) -> None:
        first, generation = self.start(model, self.LONG_PROMPT)
        generation.abort()
        await first.ended
        second, _ = self.start(model)
        await second.ended
        assert second.results
        assert second.reason != "abort"

    @asynchronous
    async def test_abort_of_the_model(self, model: IModel) -> None:
        receiver, _ = self.start(model, self.LONG_PROMPT)
        model.abort()
        await receiver.ended
        assert receiver.reason == "abort"

    @asynchronous
    async def test_abort_with_nothing_running_does_not_touch_the_next_run(self, model: IModel) -> None:
        model.abort()
        first, generation = self.start(model)
        await first.ended
        generation.abort()
        second, _ = self.start(model)
        await second.ended
        assert first.reason != "abort"
        assert second.reason != "abort"

    # Clause 5

    @asynchronous
    async def test_failing_receiver_costs_no_ending(self, model: IModel, flushErrors: Any) -> None:
        receiver = FailingReceiver()
        self.start(model, receiver=receiver)
        await receiver.ended
        assert receiver.count >= 5
        # One is logged for as many results as came at a time.
        assert 1 <= len(flushErrors(ZeroDivisionError)) <= receiver.count

    # Clause 6

    @asynchronous
    async def test_destroy_during_a_run(self, backend: IModelBackend) -> None:
        model = await backend.init(self.makeParam(backend))
        receiver, _ = self.start(model, self.LONG_PROMPT)
        destroyed = model.destroy()
        again = model.destroy()
        await destroyed
        await again
        assert receiver.endings == 1
        with pytest.raises(ModelNotInitialized):
            self.start(model)
        await receiver.ended
        assert receiver.reason == "abort"


@implementer(IResultReceiver)
class FailingReceiver:
    """A receiver with a defect."""

    def __init__(self) -> None:
        self.count = 0
        self.ended: Deferred[None] = Deferred()

    def resultsReceived(self, results: Sequence[Received]) -> None:
        """Fail."""
        self.count += len(results)
        raise ZeroDivisionError("the defect of this receiver")

    def generationFinished(self, perf: object, reason: str | None) -> None:
        """Tell the test."""
        self.ended.callback(None)

    def generationFailed(self, failure: Failure) -> None:
        """Tell the test."""
        self.ended.errback(failure)

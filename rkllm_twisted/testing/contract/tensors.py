"""Clauses of logits and hidden states."""

from __future__ import annotations

import math
from array import array

import pytest

from rkllm_twisted.errors import ResultTooLarge
from rkllm_twisted.interfaces import IModel
from rkllm_twisted.testing.contract.subject import BRIEF, Subject, asynchronous
from rkllm_twisted.testing.receivers import RecordingReceiver
from rkllm_twisted.values import Capability, Delivery, InferMode, RKLLMInferParam

LOGITS, HIDDEN = InferMode.RKLLM_INFER_GET_LOGITS, InferMode.RKLLM_INFER_GET_LAST_HIDDEN_LAYER
MODES = {Capability.GET_LOGITS: LOGITS, Capability.GET_LAST_HIDDEN_LAYER: HIDDEN}


class Tensors(Subject):
    """What comes out beside tokens."""

    @asynchronous
    async def test_logits(self, brief: IModel) -> None:
        self.needs(brief, Capability.GET_LOGITS)
        receiver = await self.answer(brief, mode=LOGITS)
        results = [result for result in receiver.results if result.token_id >= 0]
        assert 1 <= len(results) <= BRIEF
        sizes = [result.logits.num_tokens for result in results]
        assert sizes == [self.prefilled(receiver), *[1] * (len(results) - 1)]
        for result in results:
            row = floats(result.logits.logits, result.logits.num_tokens, result.logits.vocab_size)[-1]
            assert row.index(max(row)) == result.token_id
            assert result.last_hidden_layer.hidden_states is None

    @asynchronous
    async def test_hidden_states(self, brief: IModel) -> None:
        self.needs(brief, Capability.GET_LAST_HIDDEN_LAYER)
        receiver = await self.answer(brief, mode=HIDDEN)
        assert receiver.perf is not None
        assert receiver.perf.generate_tokens <= 1
        [hidden] = [each.last_hidden_layer for each in receiver.results if each.last_hidden_layer.hidden_states]
        rows = floats(hidden.hidden_states, hidden.num_tokens, hidden.embd_size)
        assert len(rows) == self.prefilled(receiver)
        assert all(any(row) for row in rows)
        assert all(each.logits.logits is None for each in receiver.results)

    @asynchronous
    async def test_no_tensors_where_none_are_asked_for(self, brief: IModel) -> None:
        for result in (await self.answer(brief)).results:
            assert result.logits.logits is None
            assert result.last_hidden_layer.hidden_states is None

    @asynchronous
    async def test_tensors_that_are_too_long(self, brief: IModel) -> None:
        modes = [MODES[capability] for capability in MODES.keys() & brief.capabilities]
        if not modes:
            self.needs(brief, *MODES)
        for mode in modes:
            receiver = RecordingReceiver()
            brief.run(self.asInput(None), RKLLMInferParam(mode=mode), receiver, Delivery(maxReply=100))
            with pytest.raises(ResultTooLarge) as refused:
                await receiver.ended
            assert refused.value.data["limit"] == 100
            assert not receiver.results
            assert (await self.answer(brief, mode=mode)).results


def floats(data: bytes | None, count: int, width: int) -> list[list[float]]:
    """The rows of a tensor, which must be whole and of numbers."""
    assert data is not None
    assert len(data) == count * width * 4
    numbers = array("f", data).tolist()
    assert all(map(math.isfinite, numbers))
    return [numbers[start : start + width] for start in range(0, len(numbers), width)]

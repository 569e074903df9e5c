"""Clauses of the KV cache: history in it, and how it is cleared."""

from __future__ import annotations

import pytest
from msgspec import structs

from rkllm_twisted.errors import InvalidParams, NotSupported, RuntimeCallFailed
from rkllm_twisted.interfaces import IModel, IModelBackend
from rkllm_twisted.testing.contract.subject import Subject, asynchronous
from rkllm_twisted.values import Capability


class Histories(Subject):
    """What stays in the KV cache, and what goes."""

    @asynchronous
    async def test_history_goes_on(self, brief: IModel) -> None:
        self.needs(brief, Capability.KEEP_HISTORY, Capability.KV_CACHE_SIZE)
        await self.answer(brief, keep_history=1)
        [one] = await brief.getKVCacheSize()
        await self.answer(brief, keep_history=1)
        [two] = await brief.getKVCacheSize()
        await self.answer(brief, keep_history=0)
        [alone] = await brief.getKVCacheSize()
        assert 0 < one < two
        assert alone <= one
        await self.answer(brief, keep_history=1)
        [anew] = await brief.getKVCacheSize()
        assert anew == one  # what kept no history is not continued

    @asynchronous
    async def test_size_is_the_prompt_before_anything_was_computed_behind_it(self, backend: IModelBackend) -> None:
        self.needs(backend, Capability.KEEP_HISTORY, Capability.KV_CACHE_SIZE)
        # A limit of the model and not of the run: where a release has none of those, the run is stopped a little later.
        model = await backend.init(structs.replace(self.briefParam(backend), max_new_tokens=1))
        receiver = await self.answer(model, keep_history=1)
        assert receiver.perf is not None
        assert await model.getKVCacheSize() == [receiver.perf.prefill_tokens]
        await model.destroy()

    @asynchronous
    async def test_nothing_is_in_the_cache_when_it_is_cleared(self, brief: IModel) -> None:
        self.needs(brief, Capability.CLEAR_KV_CACHE, Capability.KV_CACHE_SIZE)
        await brief.clearKVCache(False, None)  # also where nothing is in it
        assert await brief.getKVCacheSize() == [0]
        before = await self.answer(brief, keep_history=self._keeps(brief))
        [size] = await brief.getKVCacheSize()
        assert size > 0
        await brief.clearKVCache(False, None)
        assert await brief.getKVCacheSize() == [0]
        after = await self.answer(brief, keep_history=self._keeps(brief))
        assert await brief.getKVCacheSize() == [size]
        assert before.text == after.text

    @asynchronous
    async def test_clearing_keeps_the_system_prompt(self, brief: IModel) -> None:
        self.needs(brief, Capability.CLEAR_KV_CACHE, Capability.KV_CACHE_SIZE, Capability.CHAT_TEMPLATE)
        await brief.setChatTemplate("You count, and you never stop before ten. ", "Go on behind: ", " ")
        await self.answer(brief, keep_history=self._keeps(brief))
        [size] = await brief.getKVCacheSize()
        await brief.clearKVCache(True, None)
        [kept] = await brief.getKVCacheSize()
        assert 0 < kept < size

    @asynchronous
    async def test_ranges_are_cleared_or_refused(self, brief: IModel) -> None:
        """A runtime may clear ranges of paused runs only, as RKLLM does; it says so then."""
        self.needs(brief, Capability.CLEAR_KV_CACHE, Capability.KV_CACHE_SIZE)
        await self.answer(brief, keep_history=self._keeps(brief))
        [size] = await brief.getKVCacheSize()
        try:
            await brief.clearKVCache(False, [(1, 3)])
        except (NotSupported, RuntimeCallFailed):
            removed = 0
        else:
            removed = 2
        assert await brief.getKVCacheSize() == [size - removed]
        assert (await self.answer(brief)).results

    @asynchronous
    async def test_range_of_what_is_not_in_the_cache(self, brief: IModel) -> None:
        self.needs(brief, Capability.CLEAR_KV_CACHE, Capability.KV_CACHE_SIZE)
        await self.answer(brief, keep_history=self._keeps(brief))
        [size] = await brief.getKVCacheSize()
        with pytest.raises((InvalidParams, NotSupported, RuntimeCallFailed)):
            await brief.clearKVCache(False, [(0, size + 1)])
        assert await brief.getKVCacheSize() == [size]

    def _keeps(self, model: IModel) -> bool:
        """Whether a run can be made to leave something in the cache; one that keeps nothing may leave it too."""
        return Capability.KEEP_HISTORY in model.capabilities

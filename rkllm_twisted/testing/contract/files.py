"""Clauses of files beside the model's: LoRA adapters, prompt caches."""

from __future__ import annotations

from pathlib import Path

import pytest

from rkllm_twisted.errors import InvalidParams, RuntimeCallFailed
from rkllm_twisted.interfaces import IModel
from rkllm_twisted.testing.contract.subject import Subject, asynchronous
from rkllm_twisted.values import Capability, RKLLMLoraAdapter, RKLLMLoraParam, RKLLMPromptCacheParam

CHOSEN = RKLLMLoraParam(lora_adapter_name="one")


class Files(Subject):
    """What is loaded for runs."""

    @asynchronous
    async def test_adapter_is_used_by_the_runs_that_name_it(self, brief: IModel, tmp_path: Path) -> None:
        self.needs(brief, Capability.LORA)
        path = self.makeAdapter(tmp_path)
        before = await self.answer(brief)
        await brief.loadLora(RKLLMLoraAdapter(lora_adapter_path=path, lora_adapter_name="one"))
        unchosen = await self.answer(brief)
        chosen = await self.answer(brief, lora_params=CHOSEN)
        after = await self.answer(brief)
        assert chosen.text != before.text
        assert before.text == unchosen.text == after.text

    @asynchronous
    async def test_adapter_of_a_name_in_use(self, brief: IModel, tmp_path: Path) -> None:
        self.needs(brief, Capability.LORA)
        adapter = RKLLMLoraAdapter(lora_adapter_path=self.makeAdapter(tmp_path), lora_adapter_name="one")
        await brief.loadLora(adapter)
        with pytest.raises(InvalidParams, match=r"\$\.lora_adapter\.lora_adapter_name"):
            await brief.loadLora(adapter)
        assert (await self.answer(brief, lora_params=CHOSEN)).results

    @asynchronous
    async def test_adapter_that_was_not_loaded(self, brief: IModel) -> None:
        self.needs(brief, Capability.LORA)
        with pytest.raises(InvalidParams, match=r"\$\.rkllm_infer_params\.lora_params\.lora_adapter_name"):
            await self.answer(brief, lora_params=CHOSEN)
        assert (await self.answer(brief)).results

    @asynchronous
    async def test_adapter_that_is_missing(self, brief: IModel, tmp_path: Path) -> None:
        self.needs(brief, Capability.LORA)
        missing = RKLLMLoraAdapter(lora_adapter_path=str(tmp_path / "missing"), lora_adapter_name="one")
        with pytest.raises(RuntimeCallFailed) as refused:
            await brief.loadLora(missing)
        assert refused.value.data["function"] == "rkllm_load_lora"
        with pytest.raises(InvalidParams):  # it has no name now
            await self.answer(brief, lora_params=CHOSEN)

    @asynchronous
    async def test_prompt_cache_changes_no_answer(self, brief: IModel, tmp_path: Path) -> None:
        self.needs(brief, Capability.PROMPT_CACHE)
        await brief.releasePromptCache()  # also where there is none
        path = tmp_path / "cache"
        before = await self._saved(brief, path)
        assert path.stat().st_size
        await self.forget(brief)
        await brief.loadPromptCache(str(path))
        found = await self.answer(brief)
        other = await self.answer(brief, "something else")
        await brief.releasePromptCache()
        await self.forget(brief)
        assert (await self.answer(brief)).text == before == found.text
        assert (await self.answer(brief, "something else")).text == other.text

    @asynchronous
    async def test_prompt_cache_that_is_missing(self, brief: IModel, tmp_path: Path) -> None:
        self.needs(brief, Capability.PROMPT_CACHE)
        with pytest.raises(RuntimeCallFailed) as refused:
            await brief.loadPromptCache(str(tmp_path / "missing"))
        assert refused.value.data["function"] == "rkllm_load_prompt_cache"
        assert (await self.answer(brief)).results

    @asynchronous
    async def test_prompt_cache_that_is_damaged(self, brief: IModel, tmp_path: Path) -> None:
        self.needs(brief, Capability.PROMPT_CACHE)
        self.tells("prompt cache")
        path = tmp_path / "cache"
        before = await self._saved(brief, path)
        whole = path.read_bytes()
        for damaged in (b"", whole[:-1], whole[: len(whole) // 2], whole[:-9] + b"\xff" * 8 + whole[-1:]):
            path.write_bytes(damaged)
            with pytest.raises(RuntimeCallFailed):
                await brief.loadPromptCache(str(path))
        assert (await self.answer(brief)).text == before

    async def _saved(self, model: IModel, path: Path) -> str:
        """Save the prompt cache of a run, and tell its answer."""
        saving = RKLLMPromptCacheParam(save_prompt_cache=1, prompt_cache_path=str(path))
        return (await self.answer(model, prompt_cache_params=saving)).text

"""Clauses of what is around a prompt: the chat template, function tools."""

from __future__ import annotations

import json

import pytest

from rkllm_twisted.errors import InvalidParams, RuntimeCallFailed
from rkllm_twisted.interfaces import IModel
from rkllm_twisted.testing.contract.subject import Subject, asynchronous
from rkllm_twisted.values import Capability, RKLLMInput

WEATHER = {
    "name": "weather",
    "description": "The weather of a town.",
    "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
}
TOOLS = json.dumps([{"type": "function", "function": WEATHER}])


class Prompting(Subject):
    """What is around a prompt."""

    @asynchronous
    async def test_chat_template_is_around_the_prompt(self, brief: IModel) -> None:
        self.needs(brief, Capability.CHAT_TEMPLATE)
        ofTheModel = await self._prefilled(brief)
        parts = [("", "", ""), ("They ask. ", "", ""), ("They ask. ", "Now: ", ""), ("They ask. ", "Now: ", " Well: ")]
        sizes = []
        for each in parts:
            await brief.setChatTemplate(*each)
            sizes.append(await self._prefilled(brief))
        assert sizes == sorted(set(sizes))  # each part counts; with three empty ones nothing but the prompt does
        assert sizes[0] <= ofTheModel

    @asynchronous
    async def test_chat_template_clears_the_cache(self, brief: IModel) -> None:
        self.needs(brief, Capability.CHAT_TEMPLATE, Capability.KEEP_HISTORY, Capability.KV_CACHE_SIZE)
        await self.answer(brief, keep_history=1)
        assert await brief.getKVCacheSize() != [0]
        await brief.setChatTemplate("", "", "")
        assert await brief.getKVCacheSize() == [0]

    @asynchronous
    async def test_tools_are_shown_to_the_model(self, brief: IModel) -> None:
        self.needs(brief, Capability.FUNCTION_TOOLS)
        before = await self._prefilled(brief)
        await brief.setFunctionTools("You may look at the sky.", TOOLS, "tool_response")
        assert await self._prefilled(brief) > before
        result = RKLLMInput(role="tool", prompt_input='{"town": "Oslo", "weather": "rain"}')
        assert (await self.answer(brief, result)).tokens

    @asynchronous
    async def test_tools_clear_the_cache(self, brief: IModel) -> None:
        self.needs(brief, Capability.FUNCTION_TOOLS, Capability.KEEP_HISTORY, Capability.KV_CACHE_SIZE)
        await self.answer(brief, keep_history=1)
        assert await brief.getKVCacheSize() != [0]
        await brief.setFunctionTools("", TOOLS, "")
        assert await brief.getKVCacheSize() == [0]

    @asynchronous
    async def test_tools_that_are_no_json(self, brief: IModel) -> None:
        self.needs(brief, Capability.FUNCTION_TOOLS)
        before = await self._prefilled(brief)
        with pytest.raises(InvalidParams, match=r"\$\.tools"):
            await brief.setFunctionTools("You may look at the sky.", TOOLS[:-1], "")
        assert await self._prefilled(brief) == before

    @asynchronous
    async def test_result_of_a_tool_that_is_no_json(self, brief: IModel) -> None:
        self.needs(brief, Capability.FUNCTION_TOOLS)
        await brief.setFunctionTools("", TOOLS, "")
        with pytest.raises((InvalidParams, RuntimeCallFailed)):
            await self.answer(brief, RKLLMInput(role="tool", prompt_input="it rains"))
        assert (await self.answer(brief)).tokens

    @asynchronous
    async def test_tools_with_a_template_of_ones_own_are_left_out(self, brief: IModel) -> None:
        self.needs(brief, Capability.FUNCTION_TOOLS, Capability.CHAT_TEMPLATE)
        await brief.setChatTemplate("", "They say: ", "")
        before = await self._prefilled(brief)
        await brief.setFunctionTools("You may look at the sky.", TOOLS, "")
        assert await self._prefilled(brief) == before

    async def _prefilled(self, model: IModel) -> int:
        """How many tokens ``PROMPT`` has with all that is around it."""
        await self.forget(model)
        return self.prefilled(await self.answer(model))

"""Clauses of what goes in beside prompts: tokens, embeddings, images, several inputs at once."""

from __future__ import annotations

import pytest

from rkllm_twisted.errors import InvalidParams
from rkllm_twisted.interfaces import IModel, IModelBackend
from rkllm_twisted.testing.contract.subject import Subject, asynchronous, embedInput, imageInput, tokenInput
from rkllm_twisted.testing.receivers import RecordingReceiver
from rkllm_twisted.values import Capability, Delivery, RKLLMInferParam, RKLLMResult


class Inputs(Subject):
    """What goes in."""

    @asynchronous
    async def test_tokens_are_what_their_text_is(self, brief: IModel) -> None:
        self.needs(brief, Capability.TOKEN_INPUT)
        tokens = self.tokensOf(self.PROMPT)
        ofTokens = await self.answer(brief, tokenInput(tokens))
        assert self.prefilled(ofTokens) >= len(tokens)
        await self.takeRaw(brief)
        ofText = await self.answer(brief)
        assert ofTokens.text
        assert (ofTokens.text, ofTokens.tokens) == (ofText.text, ofText.tokens)

    @asynchronous
    async def test_chat_template_does_not_touch_tokens(self, brief: IModel) -> None:
        self.needs(brief, Capability.TOKEN_INPUT, Capability.CHAT_TEMPLATE)
        tokens = tokenInput(self.tokensOf(self.PROMPT))
        before = await self.answer(brief, tokens)
        size = self.prefilled(before)
        await brief.setChatTemplate("Listen. ", "They say: ", " You say: ")
        after = await self.answer(brief, tokens)
        assert before.tokens == after.tokens
        assert size == self.prefilled(after)

    @asynchronous
    async def test_token_that_the_vocabulary_lacks(self, brief: IModel) -> None:
        self.needs(brief, Capability.TOKEN_INPUT)
        self.tells("token ids")
        with pytest.raises(InvalidParams, match=r"\$\.rkllm_input\.token_input\.input_ids"):
            await self.answer(brief, tokenInput([*self.tokensOf(self.PROMPT), 2**31 - 1]))
        assert (await self.answer(brief)).results

    @asynchronous
    async def test_embeddings_of_tokens_are_what_the_tokens_are(self, brief: IModel) -> None:
        self.needs(brief, Capability.EMBED_INPUT)
        tokens = self.tokensOf(self.PROMPT)
        ofRows = await self.answer(brief, embedInput(self.embeddingRows(tokens), len(tokens)))
        assert self.prefilled(ofRows) >= len(tokens)
        await self.takeRaw(brief)
        ofText = await self.answer(brief)
        assert ofRows.tokens
        assert ofRows.tokens == ofText.tokens

    @asynchronous
    async def test_embeddings_of_another_width(self, brief: IModel) -> None:
        self.needs(brief, Capability.EMBED_INPUT)
        self.tells("embedding width")
        tokens = self.tokensOf(self.PROMPT)
        rows = self.embeddingRows(tokens)
        with pytest.raises(InvalidParams, match=r"\$\.rkllm_input\.embed_input\.embed"):
            await self.answer(brief, embedInput([*rows, *rows], len(tokens)))
        assert (await self.answer(brief)).results

    @asynchronous
    async def test_image_has_its_rows_in_the_prompt(self, brief: IModel) -> None:
        self.needs(brief, Capability.MULTIMODAL_INPUT)
        given = self.multimodalInput()
        rows = given.n_image_tokens if given.image is None else given.image.n_image_tokens
        without = self.prefilled(await self.answer(brief))
        await self.forget(brief)
        seen = await self.answer(brief, imageInput(given))
        assert self.prefilled(seen) >= without + rows
        assert seen.tokens

    @asynchronous
    async def test_several_inputs(self, backend: IModelBackend) -> None:
        self.needs(backend, Capability.BATCHES)
        prompts = [self.PROMPT, "something else"]
        alone = await backend.init(self.briefParam(backend))
        expected = [await self.answer(alone, prompt) for prompt in prompts]
        await alone.destroy()
        model = await backend.init(self.briefParam(backend, n_batch=2))
        receiver = RecordingReceiver()
        model.runBatch(list(map(self.asInput, prompts)), RKLLMInferParam(), receiver, Delivery())
        await receiver.ended
        assert {result.batch_index for result in receiver.results} == {0, 1}
        for index, one in enumerate(expected):
            results = [result for result in receiver.results if result.batch_index == index]
            # Only what comes first is sure to have been computed as it is alone.
            assert firstText(results) == firstText(one.results)
            tokens = [result.token_id for result in results]
            assert tokens == sorted(tokens, key=lambda token: token < 0)  # after its end no more of them
        if Capability.KV_CACHE_SIZE in model.capabilities:
            assert len(await model.getKVCacheSize()) == 2
        await model.destroy()


def firstText(results: list[RKLLMResult]) -> str:
    """The first text of some results."""
    return next(result.text for result in results if result.text)

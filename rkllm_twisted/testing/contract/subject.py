"""What a backend says of itself to the contract suite, and what every clause starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytest_twisted
from msgspec import structs

from rkllm_twisted.interfaces import IGeneration, IModel, IModelBackend, IResultReceiver, IRuntime
from rkllm_twisted.testing.receivers import RecordingReceiver
from rkllm_twisted.values import (
    Capability,
    Delivery,
    InputType,
    RKLLMCrossAttnParam,
    RKLLMEmbedInput,
    RKLLMInferParam,
    RKLLMInput,
    RKLLMMultiModalInput,
    RKLLMParam,
    RKLLMTokenInput,
)

asynchronous = pytest_twisted.ensureDeferred

GREEDY: dict[str, Any] = {"top_k": 1, "repeat_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}
"""Sampling that takes the likeliest token, whatever has been said before. (Temperature 0 is not a safe way to ask RKLLM
for that.)"""
BRIEF = 4
"""The most tokens of an answer of the model ``brief``."""


class Subject:
    """The backend under test. Subclasses define `makeBackend` and `makeParam`, and the hooks that their backend's
    capabilities need; each hook says which these are.
    """

    PROMPT = "one two three four five six seven eight"
    """A prompt whose answer has at least five tokens."""
    LONG_PROMPT = "again and " * 150
    """A prompt whose answer has at least 200 tokens, or would have."""
    CANNOT_TELL: ClassVar[frozenset[str]] = frozenset()
    """Which wrong input the backend cannot recognise and hands to its runtime: "token ids" that the vocabulary lacks,
    rows of another "embedding width", a damaged "prompt cache"."""

    def makeBackend(self) -> IRuntime | IModelBackend:
        """The backend under test, or a runtime that is adapted to one."""
        raise NotImplementedError

    def makeParam(self, backend: IModelBackend) -> RKLLMParam:
        """Parameters that load a model."""
        raise NotImplementedError

    def badParam(self, backend: IModelBackend) -> RKLLMParam:
        """Parameters whose ``model_path`` cannot be loaded."""
        return structs.replace(self.makeParam(backend), model_path="")

    def tokensOf(self, text: str) -> list[int]:
        """The ids of the tokens of a text, with nothing around it. For token_input and embed_input."""
        raise NotImplementedError("a backend that takes token_input or embed_input says what the tokens of a text are")

    def embeddingRows(self, tokens: list[int]) -> list[float]:
        """The rows of the model's embedding table for some tokens, one after the other. For embed_input."""
        raise NotImplementedError("a backend that takes embed_input says what the embeddings of its model's tokens are")

    def multimodalInput(self) -> RKLLMMultiModalInput:
        """One image, with ``<image>`` and then `PROMPT` as the prompt, in the shape of the runtime's release (the flat
        one of 1.2 unless this is overridden), by default of the rows of `PROMPT`. For multimodal_input.
        """
        rows = self.tokensOf(self.PROMPT)
        return RKLLMMultiModalInput(
            prompt=f"<image>{self.PROMPT}", image_embed=self.embeddingRows(rows), n_image_tokens=len(rows), n_image=1
        )

    def makeAdapter(self, directory: Path) -> str:
        """The path of a LoRA adapter that changes the answer to `PROMPT`; may be written into an empty directory. For
        load_lora.
        """
        raise NotImplementedError("a backend that can load_lora has an adapter to show it with")

    def crossAttention(self) -> RKLLMCrossAttnParam:
        """An encoder's output that fits the model. For set_cross_attn_params."""
        raise NotImplementedError("a backend that can set_cross_attn_params has an encoder's output to show it with")

    def prefilled(self, receiver: RecordingReceiver) -> int:
        """How many tokens of its prompt the run before this call computed: by its figures, unless its runtime has none
        to give.
        """
        assert receiver.perf is not None
        return receiver.perf.prefill_tokens

    # What the clauses share

    @pytest.fixture
    def backend(self) -> IModelBackend:
        """The backend, adapted."""
        backend: IModelBackend = IModelBackend(self.makeBackend())
        return backend

    @pytest_twisted.async_yield_fixture
    async def model(self, backend: IModelBackend) -> Any:
        """A loaded model, destroyed afterwards."""
        model = await backend.init(self.makeParam(backend))
        yield model
        await model.destroy()

    @pytest_twisted.async_yield_fixture
    async def brief(self, backend: IModelBackend) -> Any:
        """A loaded model of short answers: `BRIEF` tokens, the likeliest ones."""
        model = await backend.init(self.briefParam(backend))
        yield model
        await model.destroy()

    def briefParam(self, backend: IModelBackend, **extend: Any) -> RKLLMParam:
        """Parameters that load the model ``brief``, with fields of ``extend_param`` replaced."""
        param = self.makeParam(backend)
        extended = structs.replace(param.extend_param, **extend)
        return structs.replace(param, max_new_tokens=BRIEF, extend_param=extended, **GREEDY)

    def start(
        self, model: IModel, prompt: str | None = None, receiver: IResultReceiver | None = None, **inferParam: Any
    ) -> tuple[RecordingReceiver, IGeneration]:
        """Start a generation of `PROMPT`, or of another prompt."""
        chosen: Any = receiver or RecordingReceiver()
        return chosen, model.run(self.asInput(prompt), RKLLMInferParam(**inferParam), chosen, Delivery())

    async def answer(
        self, model: IModel, input: str | RKLLMInput | None = None, **inferParam: Any
    ) -> RecordingReceiver:
        """What a run gave, when it has ended: of `PROMPT`, or of another prompt or input."""
        receiver = RecordingReceiver()
        model.run(self.asInput(input), RKLLMInferParam(**inferParam), receiver, Delivery())
        return await receiver.ended

    def asInput(self, input: str | RKLLMInput | None) -> RKLLMInput:
        """A prompt, or `PROMPT`, as an input."""
        return (
            input if isinstance(input, RKLLMInput) else RKLLMInput(prompt_input=self.PROMPT if input is None else input)
        )

    async def takeRaw(self, model: IModel) -> None:
        """Let the model take prompts as they are. One that cannot be given a chat template is thought to have none."""
        if Capability.CHAT_TEMPLATE in model.capabilities:
            await model.setChatTemplate("", "", "")

    async def forget(self, model: IModel) -> None:
        """Clear the KV cache, where that can be done, so that the next run computes all of its prompt."""
        if Capability.CLEAR_KV_CACHE in model.capabilities:
            await model.clearKVCache(False, None)

    def needs(self, model: IModel | IModelBackend, *capabilities: Capability) -> None:
        """Skip the test where the backend says that it cannot do this."""
        for capability in capabilities:
            if capability not in model.capabilities:
                pytest.skip(f"this backend has no {capability.value}; that it says so is tested elsewhere")

    def tells(self, what: str) -> None:
        """Skip the test where the backend cannot recognise wrong input of this kind."""
        if what in self.CANNOT_TELL:
            pytest.skip(f"this backend leaves the check of {what} to its runtime")


def tokenInput(tokens: list[int]) -> RKLLMInput:
    """An input of tokens."""
    given = RKLLMTokenInput(input_ids=tokens, n_tokens=len(tokens))
    return RKLLMInput(input_type=InputType.RKLLM_INPUT_TOKEN, token_input=given)


def embedInput(embed: list[float], rows: int) -> RKLLMInput:
    """An input of embeddings."""
    given = RKLLMEmbedInput(embed=embed, n_tokens=rows)
    return RKLLMInput(input_type=InputType.RKLLM_INPUT_EMBED, embed_input=given)


def imageInput(given: RKLLMMultiModalInput) -> RKLLMInput:
    """An input of text and images."""
    return RKLLMInput(input_type=InputType.RKLLM_INPUT_MULTIMODAL, multimodal_input=given)

"""The input of a run -> the places of a sequence, checked before llama.cpp sees any of it."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from itertools import chain

from rkllm_twisted.backends.llamacpp import checking
from rkllm_twisted.backends.llamacpp.context import Context, Place
from rkllm_twisted.backends.llamacpp.vocabulary import Vocabulary
from rkllm_twisted.errors import InvalidParams, NotSupported, PromptTooLong
from rkllm_twisted.ranges import MAX_FLOAT
from rkllm_twisted.values import (
    NEEDED_BY,
    Capability,
    InputType,
    RKLLMEmbedInput,
    RKLLMImage,
    RKLLMInput,
    RKLLMMultiModalInput,
    RKLLMParam,
)

IMAGE = "\ue0a3image\ue0a3"
"""Stands for the marker of an image while a template is written, which may have one of its own in other places."""

Write = Callable[[str], str]
"""A prompt into the turn that says it."""


class Inputs:
    """Reads the inputs of one model.

    Args:
        vocabulary: Of the model.
        context: Of the model.
        param: What it was loaded with; has the tags of images up to RKLLM 1.2.
        takesNo: For the inputs that it cannot take, why.
    """

    def __init__(
        self, vocabulary: Vocabulary, context: Context, param: RKLLMParam, takesNo: dict[Capability, str]
    ) -> None:
        self._vocabulary = vocabulary
        self._context = context
        self._param = param
        self._takesNo = takesNo

    def places(self, input: RKLLMInput, where: str, write: Write, *, begins: bool) -> list[Place]:
        """The places that an input stands for.

        Args:
            input: The input.
            where: Its JSON path.
            write: Writes the turn that says a prompt.
            begins: Whether nothing comes before it.

        Raises:
            InvalidParams: It is empty, or contradicts itself or the model.
            NotSupported: This model or backend cannot take it.
            PromptTooLong: It leaves no room for one token in the context.
        """
        checking.checkInput(input, where)
        capability = NEEDED_BY[input.input_type]
        if (reason := self._takesNo.get(capability)) is not None:
            raise NotSupported(f"this model cannot take it: {reason}", needs=capability.value)
        places = self._read(input, where, _saying(where, write), begins)
        if not places:
            raise InvalidParams(f"{where}.{input.MEMBERS[input.input_type]}: expected at least one token")
        if len(places) >= self._context.length:
            raise PromptTooLong(tokens=len(places), limit=self._context.length)
        return places

    def _read(self, input: RKLLMInput, where: str, write: Write, begins: bool) -> list[Place]:
        if input.input_type is InputType.RKLLM_INPUT_TOKEN:
            return [*checking.tokensOf(input, self._vocabulary.size, where)]
        if input.embed_input is not None and input.input_type is InputType.RKLLM_INPUT_EMBED:
            return self._embedded(input.embed_input, f"{where}.embed_input")
        if input.multimodal_input is not None and input.input_type is InputType.RKLLM_INPUT_MULTIMODAL:
            return self._withImages(input.multimodal_input, f"{where}.multimodal_input", write, begins)
        return [*self._tokens(write(input.prompt_input or ""), begins)]

    def _tokens(self, text: str, begins: bool) -> list[int]:
        return self._vocabulary.tokenize(text, self._context.length, begins=begins)

    def _embedded(self, given: RKLLMEmbedInput, where: str) -> list[Place]:
        return self._rows(given.embed, given.n_tokens, f"{where}.embed", "n_tokens")

    def _withImages(self, given: RKLLMMultiModalInput, where: str, write: Write, begins: bool) -> list[Place]:
        if given.video is not None or given.audio is not None:
            kind = "video" if given.video is not None else "audio"
            raise NotSupported(f"the CPU backend takes images, no {kind}", needs=f"multimodal_input.{kind}")
        block = where if given.image is None else f"{where}.image"
        image = given.image or RKLLMImage(
            image_embed=given.image_embed,
            n_image_tokens=given.n_image_tokens,
            n_image=given.n_image,
            image_start=self._param.img_start,
            image_end=self._param.img_end,
        )
        images = self._images(image, block)
        text = write(given.prompt.replace("<image>", f"{image.image_start}{IMAGE}{image.image_end}"))
        parts = [self._tokens(part, begins and not index) for index, part in enumerate(text.split(IMAGE))]
        if len(parts) != len(images) + 1:
            raise InvalidParams(
                f"{where}.prompt: expected <image> {len(images)} times in what the chat template makes of it"
            )
        return [*parts[0], *chain.from_iterable((*image, *part) for image, part in zip(images, parts[1:], strict=True))]

    def _images(self, image: RKLLMImage, where: str) -> list[list[Place]]:
        count, rows = image.n_image or int(bool(image.image_embed)), image.n_image_tokens
        if not count:
            return []
        checking.check(f"{where}.n_image_tokens", rows, "1 or more, as there is an image", lambda value: value > 0)
        places = self._rows(image.image_embed, count * rows, f"{where}.image_embed", "n_image × n_image_tokens")
        return [places[start : start + rows] for start in range(0, count * rows, rows)]

    def _rows(self, numbers: list[float], count: int, where: str, name: str) -> list[Place]:
        width = self._context.inWidth
        if len(numbers) != count * width:
            expected = f"{name} × {width}, the model's embedding size, which is {count * width} numbers"
            raise InvalidParams(f"{where}: expected {expected}, got {len(numbers)}")
        for index, number in enumerate(numbers):
            if not abs(number) <= MAX_FLOAT:  # nor is that of a NaN
                raise InvalidParams(f"{where}[{index}]: expected a number that a float of C can hold, got {number!r}")
        data, size = array("f", numbers).tobytes(), width * 4
        return [data[start : start + size] for start in range(0, len(data), size)]


def _saying(where: str, write: Write) -> Write:
    """What writes a turn, which knows of one input only, with errors that say which input it was."""

    def written(prompt: str) -> str:
        try:
            return write(prompt)
        except InvalidParams as error:
            raise InvalidParams(error.detail.replace("$.rkllm_input", where, 1)) from None

    return written

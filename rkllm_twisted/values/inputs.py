"""What a run is about: a text, tokens, embeddings, or a text with embeddings in it.

Field meanings: manual of RKLLM 1.3.0, section 3.2.3.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from rkllm_twisted.ranges import Count, Flag, Float, Size, Text
from rkllm_twisted.values.base import Value
from rkllm_twisted.values.enums import InputType


class RKLLMEmbedInput(Value, frozen=True):
    """Embeddings instead of text: ``n_tokens`` rows of float32, flat and row-major."""

    embed: list[Float]
    """The rows one after the other, each of the model's embedding size."""
    n_tokens: Count
    """How many rows."""


class RKLLMTokenInput(Value, frozen=True):
    """Token ids instead of text."""

    input_ids: list[Size]
    """Ids of the model's own vocabulary."""
    n_tokens: Count
    """How many ids."""


class RKLLMImage(Value, frozen=True):
    """The image block of a multimodal input of runtime 1.3."""

    image_embed: list[Float] = []
    """The embeddings of all images: ``n_image`` × ``n_image_tokens`` rows of float32, flat and row-major."""
    n_image_tokens: Size = 0
    """Rows of each image."""
    n_image: Size = 0
    """How many images; ``prompt`` has ``<image>`` as many times."""
    image_start: Text = ""
    """The text before an image's tokens."""
    image_end: Text = ""
    """The text after an image's tokens."""
    image_content: Text = ""
    """The text that stands for an image's tokens."""
    image_width: Size = 0
    """In pixels, as the encoder took it."""
    image_height: Size = 0
    """In pixels, as the encoder took it."""


class RKLLMVideo(Value, frozen=True):
    """The video block of a multimodal input of runtime 1.3."""

    video_embed: list[Float] = []
    """The embeddings: ``n_video`` × ``n_frame_per_video`` × ``n_frame_tokens`` rows of float32, flat and row-major."""
    n_frame_tokens: Size = 0
    """Rows of each frame."""
    n_frame_per_video: Size = 0
    """Frames of each video."""
    n_video: Size = 0
    """How many videos; ``prompt`` has ``<video>`` as many times."""
    video_start: Text = ""
    """The text before a video's tokens."""
    video_end: Text = ""
    """The text after a video's tokens."""
    video_content: Text = ""
    """The text that stands for a video's tokens."""
    frame_width: Size = 0
    """In pixels, as the encoder took it."""
    frame_height: Size = 0
    """In pixels, as the encoder took it."""


class RKLLMAudio(Value, frozen=True):
    """The audio block of a multimodal input of runtime 1.3.1."""

    audio_embed: list[Float] = []
    """The embeddings: ``n_audio`` × ``n_audio_tokens`` rows of float32, flat and row-major."""
    n_audio_tokens: Size = 0
    """Rows of each recording."""
    n_audio: Size = 0
    """How many recordings."""
    audio_start: Text = ""
    """The text before a recording's tokens."""
    audio_end: Text = ""
    """The text after a recording's tokens."""
    audio_content: Text = ""
    """The text that stands for a recording's tokens."""


class RKLLMMultiModalInput(Value, frozen=True):
    """Text with embeddings of images, flat as in runtime 1.2 or in blocks as in 1.3."""

    prompt: Text
    """The text, with a marker where each image and each video belongs."""
    image_embed: list[Float] = []
    """As in the block ``image``; so for the next four (until runtime 1.2)."""
    n_image_tokens: Size = 0
    """Rows of each image."""
    n_image: Size = 0
    """How many images; 0, where there is an ``image_embed``, is one (until runtime 1.2.0)."""
    image_width: Size = 0
    """In pixels, as the encoder took it."""
    image_height: Size = 0
    """In pixels, as the encoder took it."""
    image: RKLLMImage | None = None
    """The images (runtime 1.3)."""
    video: RKLLMVideo | None = None
    """The videos (runtime 1.3)."""
    audio: RKLLMAudio | None = None
    """The recordings (runtime 1.3.1)."""

    @property
    def images(self) -> int:
        """How many images there are; embeddings outside of a block that nobody counts are those of one."""
        return (self.n_image or int(bool(self.image_embed))) if self.image is None else self.image.n_image


class RKLLMInput(Value, frozen=True):
    """The input of one run; ``input_type`` says which of the last four members counts."""

    input_type: InputType = InputType.RKLLM_INPUT_PROMPT
    """Which of the last four counts; one of ``INPUT_TYPES``."""
    role: Annotated[Text, Meta(max_length=255)] = "user"
    """``user``, or ``tool`` for the result of a function call."""
    enable_thinking: Flag = False
    """True lets a model think that can; on the NPU only with its own chat template (airockchip/rknn-llm issue 377)."""
    prompt_input: Text | None = None
    """A text, put into the model's chat template."""
    embed_input: RKLLMEmbedInput | None = None
    """Embeddings, taken as they are."""
    token_input: RKLLMTokenInput | None = None
    """Token ids, taken as they are."""
    multimodal_input: RKLLMMultiModalInput | None = None
    """A text with embeddings of images."""

    MEMBERS: ClassVar[dict[InputType, str]] = {
        InputType.RKLLM_INPUT_PROMPT: "prompt_input",
        InputType.RKLLM_INPUT_TOKEN: "token_input",
        InputType.RKLLM_INPUT_EMBED: "embed_input",
        InputType.RKLLM_INPUT_MULTIMODAL: "multimodal_input",
    }

    ROLES: ClassVar[tuple[str, ...]] = ("user", "tool")
    """What ``role`` may be."""

    @property
    def chosen(self) -> object:
        """The member that ``input_type`` names; None if it is missing."""
        chosen: object = getattr(self, self.MEMBERS[self.input_type])
        return chosen

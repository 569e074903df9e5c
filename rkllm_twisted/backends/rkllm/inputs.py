"""The input of a run: checked, and as the library wants it."""

from __future__ import annotations

from msgspec import structs

from rkllm_twisted.backends.rkllm.families import Family
from rkllm_twisted.backends.rkllm.lacking import refuseLacking
from rkllm_twisted.errors import InvalidParams
from rkllm_twisted.ranges import checkFields, checkNul, cut
from rkllm_twisted.values import RKLLMEmbedInput, RKLLMInput, RKLLMMultiModalInput, RKLLMTokenInput
from rkllm_twisted.values.arrays import checkInput


def checkedInput(family: Family, input: RKLLMInput, where: str) -> RKLLMInput:
    """Check the input of a run.

    Args:
        family: Of the library.
        input: With every field set.
        where: Its JSON path.

    Returns:
        The input as the library wants it, with the member that counts and no other.

    Raises:
        InvalidParams: A value is out of range, or the numbers contradict each other.
        NotSupported: A field is set that the family lacks.
    """
    checkFields(input, where)
    checkNul(input, where)
    if input.role not in input.ROLES:
        raise InvalidParams(f'{where}.role: expected "user" or "tool", got {cut(repr(input.role))}')
    wanted = _counted(family, _alone(input))
    refuseLacking(family, "RKLLMInput", wanted, where)
    checkInput(wanted, where)
    return wanted


def knownTokens(input: RKLLMInput) -> int:
    """The tokens of an input as far as they are known without the library's tokenizer: of all but text."""
    chosen = input.chosen
    if isinstance(chosen, RKLLMMultiModalInput):
        return _mediaTokens(chosen)
    return chosen.n_tokens if isinstance(chosen, RKLLMTokenInput | RKLLMEmbedInput) else 0


def _alone(input: RKLLMInput) -> RKLLMInput:
    others = [member for type, member in input.MEMBERS.items() if type is not input.input_type]
    return structs.replace(input, **dict.fromkeys(others))


def _counted(family: Family, input: RKLLMInput) -> RKLLMInput:
    """With ``n_image`` as the family wants it: up to 1.2.0 there is one image that nobody counts."""
    media = input.multimodal_input
    if media is None or not family.hasField("RKLLMMultiModalInput", "image_embed"):
        return input
    count = media.images
    if not family.hasField("RKLLMMultiModalInput", "n_image"):
        count = 0 if media.n_image == 1 else media.n_image
    return structs.replace(input, multimodal_input=structs.replace(media, n_image=count))


def _mediaTokens(media: RKLLMMultiModalInput) -> int:
    """The tokens of what an input has beside its text; they take room in the context as those do."""
    image, video, audio = media.image or media, media.video, media.audio
    count = media.images * image.n_image_tokens
    count += video.n_video * video.n_frame_per_video * video.n_frame_tokens if video else 0
    return count + (audio.n_audio * audio.n_audio_tokens if audio else 0)

"""The input of a run: checked, and as the library wants it."""

from __future__ import annotations

from msgspec import Struct, structs

from rkllm_twisted.backends.rkllm.families import Family
from rkllm_twisted.backends.rkllm.lacking import refuseLacking
from rkllm_twisted.backends.rkllm.lengths import checkItems, checkLength, checkRows
from rkllm_twisted.errors import InvalidParams
from rkllm_twisted.ranges import checkFields, checkNul, cut
from rkllm_twisted.values import RKLLMEmbedInput, RKLLMInput, RKLLMMultiModalInput, RKLLMTokenInput


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
    member = input.MEMBERS[input.input_type]
    if input.chosen is None:
        raise InvalidParams(f"{where}.{member}: missing, input_type {input.input_type.value} needs it")
    if input.role not in input.ROLES:
        raise InvalidParams(f'{where}.role: expected "user" or "tool", got {cut(repr(input.role))}')
    wanted = _counted(family, _alone(input))
    refuseLacking(family, "RKLLMInput", wanted, where)
    _checkArrays(input.chosen, f"{where}.{member}")
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
    count = _flatImages(media)
    if not family.hasField("RKLLMMultiModalInput", "n_image"):
        count = 0 if media.n_image == 1 else media.n_image
    return structs.replace(input, multimodal_input=structs.replace(media, n_image=count))


def _flatImages(media: RKLLMMultiModalInput) -> int:
    """How many images are in the fields that come before 1.3: rows that nobody counts are those of one."""
    return media.n_image or int(bool(media.image_embed))


def _checkArrays(chosen: object, where: str) -> None:
    if isinstance(chosen, RKLLMTokenInput):
        checkLength(f"{where}.input_ids", len(chosen.input_ids), chosen.n_tokens, "n_tokens")
    elif isinstance(chosen, RKLLMEmbedInput):
        checkRows(f"{where}.embed", len(chosen.embed), n_tokens=chosen.n_tokens)
    elif isinstance(chosen, RKLLMMultiModalInput):
        _checkMedia(chosen, where)


def _checkMedia(media: RKLLMMultiModalInput, where: str) -> None:
    image, video, audio = media.image, media.video, media.audio
    images = image.n_image if image else _flatImages(media)
    if image is None:
        checkItems(f"{where}.image_embed", len(media.image_embed), n_image=images, n_image_tokens=media.n_image_tokens)
    else:
        checkItems(f"{where}.image.image_embed", len(image.image_embed), **_counts(image, "n_image", "n_image_tokens"))
    if video is not None:
        counts = _counts(video, "n_video", "n_frame_per_video", "n_frame_tokens")
        checkItems(f"{where}.video.video_embed", len(video.video_embed), **counts)
    if audio is not None:
        checkItems(f"{where}.audio.audio_embed", len(audio.audio_embed), **_counts(audio, "n_audio", "n_audio_tokens"))
    # The marker of a recording is not documented.
    for marker, count in (("<image>", images), ("<video>", video.n_video if video else 0)):
        if (found := media.prompt.count(marker)) != count:
            raise InvalidParams(f"{where}.prompt: expected {marker} {count} times, got it {found} times")


def _counts(block: Struct, *names: str) -> dict[str, int]:
    return {name: getattr(block, name) for name in names}


def _mediaTokens(media: RKLLMMultiModalInput) -> int:
    """The tokens of what an input has beside its text; they take room in the context as those do."""
    image, video, audio = media.image, media.video, media.audio
    count = _flatImages(media) * media.n_image_tokens
    count += image.n_image * image.n_image_tokens if image else 0
    count += video.n_video * video.n_frame_per_video * video.n_frame_tokens if video else 0
    return count + (audio.n_audio * audio.n_audio_tokens if audio else 0)

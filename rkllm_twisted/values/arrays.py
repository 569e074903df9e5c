"""Whether the arrays of an input are as long as its other fields say, for whoever gives them to a runtime.

A runtime cannot check that, and wrong lengths end its process (airockchip/rknn-llm issues 336, 341, 358 and 359).
"""

from __future__ import annotations

from math import prod

from msgspec import Struct

from rkllm_twisted.errors import InvalidParams
from rkllm_twisted.values.inputs import RKLLMEmbedInput, RKLLMInput, RKLLMMultiModalInput, RKLLMTokenInput
from rkllm_twisted.values.parameters import RKLLMCrossAttnParam


def checkInput(input: RKLLMInput, where: str = "$.rkllm_input") -> None:
    """Check the input of a run.

    Args:
        input: With every field set.
        where: Its JSON path.

    Raises:
        InvalidParams: The member that ``input_type`` names is missing, an array has not the length that the numbers
            beside it say, or a marker is not there as often as there are images or videos.
    """
    member, chosen = input.MEMBERS[input.input_type], input.chosen
    if chosen is None:
        raise InvalidParams(f"{where}.{member}: missing, input_type {input.input_type.value} needs it")
    if isinstance(chosen, RKLLMTokenInput):
        _checkLength(f"{where}.{member}.input_ids", len(chosen.input_ids), chosen.n_tokens, "n_tokens")
    elif isinstance(chosen, RKLLMEmbedInput):
        _checkRows(f"{where}.{member}.embed", len(chosen.embed), chosen.n_tokens, "n_tokens")
    elif isinstance(chosen, RKLLMMultiModalInput):
        _checkMultiModal(chosen, f"{where}.{member}")


def checkCrossAttention(params: RKLLMCrossAttnParam) -> None:
    """Check the encoder's output.

    Raises:
        InvalidParams: An array has not the length that ``num_tokens`` or another array says.
    """
    where = "$.cross_attn_params"
    _checkLength(f"{where}.encoder_mask", len(params.encoder_mask), params.num_tokens, "num_tokens")
    _checkLength(f"{where}.encoder_pos", len(params.encoder_pos), params.num_tokens, "num_tokens")
    _checkRows(f"{where}.encoder_k_cache", len(params.encoder_k_cache), params.num_tokens, "num_tokens")
    _checkLength(
        f"{where}.encoder_v_cache", len(params.encoder_v_cache), len(params.encoder_k_cache), "encoder_k_cache"
    )


def _checkMultiModal(input: RKLLMMultiModalInput, where: str) -> None:
    image, video, audio = input.image, input.video, input.audio
    if image is None:
        counts = {"n_image": input.images, "n_image_tokens": input.n_image_tokens}
        _checkItems(f"{where}.image_embed", len(input.image_embed), **counts)
    else:
        if input.image_embed:
            raise InvalidParams(f"{where}.image_embed: expected it either here or in image, got both")
        _checkItems(f"{where}.image.image_embed", len(image.image_embed), **_counts(image, "n_image", "n_image_tokens"))
    if video is not None:
        counts = _counts(video, "n_video", "n_frame_per_video", "n_frame_tokens")
        _checkItems(f"{where}.video.video_embed", len(video.video_embed), **counts)
    if audio is not None:
        _checkItems(f"{where}.audio.audio_embed", len(audio.audio_embed), **_counts(audio, "n_audio", "n_audio_tokens"))
    # The marker of a recording is not documented.
    _checkMarkers(f"{where}.prompt", input.prompt, image=input.images, video=0 if video is None else video.n_video)


def _counts(block: Struct, *names: str) -> dict[str, int]:
    return {name: getattr(block, name) for name in names}


def _checkItems(where: str, length: int, **counts: int) -> None:
    """Embeddings are rows for each item, or there are neither rows nor items; the first count is that of the items."""
    if not length and not next(iter(counts.values())):
        return
    for name, number in counts.items():
        if number == 0:
            block = where.rpartition(".")[0]
            raise InvalidParams(f"{block}.{name}: expected 1 or more, as there are embeddings, got 0")
    _checkRows(where, length, prod(counts.values()), " × ".join(counts))


def _checkMarkers(where: str, prompt: str, **counts: int) -> None:
    """A runtime pairs each marker with an embedding, whether it is there or not."""
    for kind, count in counts.items():
        found = prompt.count(f"<{kind}>")
        if found != count:
            raise InvalidParams(f"{where}: expected <{kind}> {count} times, as n_{kind}, got it {found} times")


def _checkRows(where: str, length: int, rows: int, name: str) -> None:
    if length == 0 or length % rows:
        raise InvalidParams(f"{where}: expected a length that is a multiple of {name}, {rows}, got {length} numbers")


def _checkLength(where: str, length: int, expected: int, name: str) -> None:
    if length != expected:
        raise InvalidParams(f"{where}: expected as many numbers as {name} says, {expected}, got {length}")

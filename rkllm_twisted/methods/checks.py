"""What must fit together: rules over several fields, of whole values, before any of them reaches a runtime.

What one field alone decides is the business of its type in `rkllm_twisted.values`. Each function raises InvalidParams
whose detail begins with the JSON path of the value under the names of C, such as ``$.param.n_keep``.

A runtime cannot check the lengths of its arrays, and wrong ones end its process (airockchip/rknn-llm issues 336, 341,
358 and 359).
"""

from __future__ import annotations

from typing import NoReturn

from rkllm_twisted.errors import InvalidParams
from rkllm_twisted.ranges import MAX_PATH, cut
from rkllm_twisted.values import (
    RKLLMCrossAttnParam,
    RKLLMEmbedInput,
    RKLLMInferParam,
    RKLLMInput,
    RKLLMLoraAdapter,
    RKLLMMultiModalInput,
    RKLLMParam,
    RKLLMTokenInput,
)


def checkParam(param: RKLLMParam, given: RKLLMParam | None = None) -> None:
    """Check what a model is to be loaded with.

    Args:
        param: With every field set.
        given: What the client gave of it. A CPU mask and a number of CPUs are compared only if it gave both, since a
            default fits the machine and not the other. None: everything was given.

    Raises:
        InvalidParams: The context is too small for ``n_keep``, the mask names another number of CPUs, or the path is
            too long.
    """
    _checkPath("$.param.model_path", param.model_path)
    if 0 < param.max_context_len <= param.n_keep:
        _refuse("$.param.n_keep", f"less than max_context_len, {param.max_context_len}", param.n_keep)
    extend = (param if given is None else given).extend_param
    if extend is not None and extend.enabled_cpus_mask and extend.enabled_cpus_num is not None:
        count = extend.enabled_cpus_mask.bit_count()
        if count != extend.enabled_cpus_num:
            expected = f"as many CPUs as enabled_cpus_num says, {extend.enabled_cpus_num}"
            got = f"{extend.enabled_cpus_mask}, which names {count}"
            _refuse("$.param.extend_param.enabled_cpus_mask", expected, got)


def checkInput(input: RKLLMInput, where: str = "$.rkllm_input") -> None:
    """Check the input of a run.

    Args:
        input: With every field set.
        where: Its JSON path.

    Raises:
        InvalidParams: The member that ``input_type`` names is missing, or its numbers contradict each other.
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


def checkInferParam(inferParam: RKLLMInferParam | None) -> None:
    """Check how a run is to infer, before it waits for the turn at which its defaults are known.

    Args:
        inferParam: What was given, which may be partial.

    Raises:
        InvalidParams: A path is too long.
    """
    cache = None if inferParam is None else inferParam.prompt_cache_params
    if cache is not None and cache.prompt_cache_path is not None:
        _checkPath("$.rkllm_infer_params.prompt_cache_params.prompt_cache_path", cache.prompt_cache_path)


def checkLora(adapter: RKLLMLoraAdapter) -> None:
    """Check a LoRA adapter.

    Raises:
        InvalidParams: Its path is too long.
    """
    _checkPath("$.lora_adapter.lora_adapter_path", adapter.lora_adapter_path)


def checkPromptCache(path: str) -> None:
    """Check the path of a prompt cache file.

    Raises:
        InvalidParams: It is too long.
    """
    _checkPath("$.prompt_cache_path", path)


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


def checkRanges(starts: list[int] | None, ends: list[int] | None) -> list[tuple[int, int]] | None:
    """Check the ranges of a KV cache that are to be cleared.

    Args:
        starts: Where each begins.
        ends: What each ends before.

    Returns:
        The ranges; None if none were given, which means everything.

    Raises:
        InvalidParams: There are not as many starts as ends, or a range is empty.
    """
    if starts is None and ends is None:
        return None
    if starts is None or ends is None or len(starts) != len(ends):
        raise InvalidParams("$.start_pos: expected as many starts as there are numbers in end_pos")
    for index, (start, end) in enumerate(zip(starts, ends, strict=True)):
        if start >= end:
            _refuse(f"$.end_pos[{index}]", f"more than start_pos[{index}], {start}", end)
    return list(zip(starts, ends, strict=True))


def _checkMultiModal(input: RKLLMMultiModalInput, where: str) -> None:
    image, video, audio = input.image, input.video, input.audio
    if image is None:
        # Up to runtime 1.2.0 there is one image and nobody counts it.
        images = input.n_image or (1 if input.image_embed else 0)
        _checkBlock(f"{where}.image_embed", len(input.image_embed), n_image=images, n_image_tokens=input.n_image_tokens)
    else:
        if input.image_embed:
            raise InvalidParams(f"{where}.image_embed: expected it either here or in image, got both")
        images, rows = image.n_image, image.n_image_tokens
        _checkBlock(f"{where}.image.image_embed", len(image.image_embed), n_image=images, n_image_tokens=rows)
    if video is not None:
        counts = {name: getattr(video, name) for name in ("n_video", "n_frame_per_video", "n_frame_tokens")}
        _checkBlock(f"{where}.video.video_embed", len(video.video_embed), **counts)
    if audio is not None:
        counts = {name: getattr(audio, name) for name in ("n_audio", "n_audio_tokens")}
        _checkBlock(f"{where}.audio.audio_embed", len(audio.audio_embed), **counts)
    _checkMarkers(f"{where}.prompt", input.prompt, image=images, video=0 if video is None else video.n_video)


def _checkBlock(where: str, length: int, **counts: int) -> None:
    """Embeddings are rows for each item, or there are neither rows nor items."""
    if length == 0 and next(iter(counts.values())) == 0:
        return
    block = where.rpartition(".")[0]
    for name, number in counts.items():
        if number == 0:
            _refuse(f"{block}.{name}", "1 or more, as there are embeddings", number)
    rows = 1
    for number in counts.values():
        rows *= number
    _checkRows(where, length, rows, " × ".join(counts))


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


def _checkPath(where: str, path: str) -> None:
    """Its type has counted characters."""
    length = len(path.encode())
    if length > MAX_PATH:
        raise InvalidParams(f"{where}: expected a path of at most {MAX_PATH} bytes, got {cut(path)} of {length}")


def _refuse(where: str, expected: str, got: object) -> NoReturn:
    raise InvalidParams(f"{where}: expected {expected}, got {got}")

"""What must fit together: rules over several fields, of whole values, before any of them reaches a runtime.

What one field alone decides is the business of its type in `rkllm_twisted.values`; how long arrays must be is told in
`rkllm_twisted.values.arrays`. Each function raises InvalidParams whose detail begins with the JSON path of the value
under the names of C, such as ``$.param.n_keep``.
"""

from __future__ import annotations

from typing import NoReturn

from rkllm_twisted.errors import InvalidParams
from rkllm_twisted.ranges import MAX_PATH, cut
from rkllm_twisted.values import (
    RKLLMInferParam,
    RKLLMLoraAdapter,
    RKLLMParam,
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


def _checkPath(where: str, path: str) -> None:
    """Its type has counted characters."""
    length = len(path.encode())
    if length > MAX_PATH:
        raise InvalidParams(f"{where}: expected a path of at most {MAX_PATH} bytes, got {cut(path)} of {length}")


def _refuse(where: str, expected: str, got: object) -> NoReturn:
    raise InvalidParams(f"{where}: expected {expected}, got {got}")

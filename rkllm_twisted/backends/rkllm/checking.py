"""What is refused before the library sees it, the input of a run excepted (`inputs`).

The library would refuse most of it with -1 and a line in its log: here it gets an error that names it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import NoReturn

import msgspec
from msgspec import structs

from rkllm_twisted.backends.rkllm.cpus import chosenCPUs
from rkllm_twisted.backends.rkllm.families import Family
from rkllm_twisted.backends.rkllm.lacking import refuseLacking
from rkllm_twisted.errors import InvalidParams, ModelLoadFailed, NotSupported, RuntimeCallFailed
from rkllm_twisted.ranges import checkFields, checkNul, cut, nearest
from rkllm_twisted.values import InferMode, RKLLMInferParam, RKLLMParam


def checkParam(family: Family, param: RKLLMParam, context: int) -> None:
    """Check everything of ``RKLLMParam`` but the file.

    Args:
        family: Of the library.
        param: With every field set.
        context: What ``max_context_len`` comes to.

    Raises:
        InvalidParams: A value is out of range.
        NotSupported: A field is set that the family lacks.
    """
    checkFields(param, "$.param")
    checkNul(param, "$.param")
    refuseLacking(family, "RKLLMParam", param, "$.param")
    if param.n_keep >= context:
        _refuse("$.param.n_keep", f"less than max_context_len, {context}", param.n_keep)
    if family.hasField("RKLLMExtendParam", "enabled_cpus_mask"):
        chosenCPUs(param.extend_param)


def checkModelFile(path: str) -> None:
    """Refuse a model file that cannot be read. What is in it, only the library knows: the format is private.

    Raises:
        ModelLoadFailed: With the reason.
    """
    if not path:
        raise ModelLoadFailed("model_path is empty, expected the path of a .rkllm file")
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # before it is opened: that would wait at a pipe
            raise ModelLoadFailed(f"{path}: not a file")
        with open(path, "rb") as file:
            if not file.read(1):
                raise ModelLoadFailed(f"{path}: the file is empty")
    except OSError as error:
        raise ModelLoadFailed(f"{path}: {error.strerror}") from None


def checkInferParam(family: Family, inferParam: RKLLMInferParam, batch: int, adapters: Iterable[str]) -> None:
    """Check how a run is to infer.

    Args:
        family: Of the library.
        inferParam: With every field set.
        batch: How many inputs the run has.
        adapters: The names of the LoRA adapters that are loaded.

    Raises:
        InvalidParams: A value is out of range, or the adapter is not loaded.
        NotSupported: The library cannot do it.
    """
    where = "$.rkllm_infer_params"
    checkFields(inferParam, where)
    checkNul(inferParam, where)
    # The token limit is kept by us where the family has no field for it.
    refuseLacking(family, "RKLLMInferParam", structs.replace(inferParam, max_new_tokens=0), where)
    if batch > 1 and inferParam.mode is InferMode.RKLLM_INFER_GET_LOGITS:  # issue 406
        raise NotSupported(f"{where}.mode: the runtime gives no logits of several inputs", needs="n_batch 1")
    lora, cache = inferParam.lora_params, inferParam.prompt_cache_params
    if lora is not None and lora.lora_adapter_name not in (known := list(adapters)):
        place, name = f"{where}.lora_params.lora_adapter_name", cut(lora.lora_adapter_name)
        raise InvalidParams(f"{place}: no adapter {name} is loaded{nearest(lora.lora_adapter_name, known)}")
    if cache is not None and cache.save_prompt_cache and not cache.prompt_cache_path:
        # The library would write prompt_cache.bin into the working directory.
        raise InvalidParams(
            f"{where}.prompt_cache_params.prompt_cache_path: expected a path, as save_prompt_cache is 1"
        )


def checkTools(tools: str) -> None:
    """Check the text that describes functions.

    Raises:
        InvalidParams: It is not JSON.
    """
    try:
        msgspec.json.decode(tools)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidParams(f"$.tools: expected a JSON text, got {cut(tools)} ({error})") from None


def checkRanges(ranges: list[tuple[int, int]], sizes: list[int]) -> None:
    """Check ranges of the KV cache: the library reads as many as the model has inputs.

    Args:
        ranges: One for each input.
        sizes: How many tokens are in the cache, for each input.

    Raises:
        InvalidParams: They are more or fewer, or one has no token, or is not in the cache.
    """
    if len(ranges) != len(sizes):
        _refuse("$.start_pos", f"{len(sizes)} ranges, as n_batch of init", len(ranges))
    for index, ((start, end), size) in enumerate(zip(ranges, sizes, strict=True)):
        if not 0 <= start < end:
            _refuse(f"$.start_pos[{index}]", "0 or more, and less than end_pos", f"{start} to {end}")
        if end > size:
            _refuse(f"$.end_pos[{index}]", f"at most {size}, the tokens in the cache", end)


def checkRegular(path: str, function: str) -> None:
    """Refuse to have the library open what is not a file: it would wait at a pipe for ever.

    A path where nothing is, is the library's to refuse.

    Raises:
        RuntimeCallFailed: There is something else.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode):
        raise RuntimeCallFailed("not a regular file", function=function, status=-1)


def _refuse(where: str, expected: str, got: object) -> NoReturn:
    raise InvalidParams(f"{where}: expected {expected}, got {got}")

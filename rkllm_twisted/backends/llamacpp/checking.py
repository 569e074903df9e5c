"""Which parameters are refused, in whose words.

Some are accepted without effect: ``is_async`` (never passed on, by the wire's contract), ``embed_flash`` and
``base_domain_id`` (of the NPU), ``enabled_cpus_num`` and ``enabled_cpus_mask`` (which CPUs help the NPU; what computes
here is the option ``threads``), ``img_content`` and ``image_content`` (rows take the place of that text).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from rkllm_twisted.errors import InvalidParams, ModelLoadFailed, NotSupported
from rkllm_twisted.ranges import checkFields
from rkllm_twisted.values import (
    Capability,
    InputType,
    RKLLMInput,
    RKLLMParam,
    RKLLMSamplingParam,
    samplingOf,
)

Number = TypeVar("Number", int, float)

NO_CROSS_ATTENTION = "llama.cpp computes an encoder's keys and values itself and cannot be given them"


def checkParam(param: RKLLMParam) -> None:
    """Check everything of ``RKLLMParam`` but the file.

    Raises:
        InvalidParams: A value is out of range.
        NotSupported: A field is set that this backend lacks.
    """
    checkFields(param, "$.param")
    checkSampling(samplingOf(param), "$.param")
    if param.extend_param.use_cross_attn:
        raise NotSupported(NO_CROSS_ATTENTION, needs=Capability.CROSS_ATTENTION.value)


def checkContext(name: str, asked: int, limit: int | None) -> None:
    """Refuse a context longer than the model was trained for, as RKLLM does.

    Args:
        name: What the client calls the model.
        asked: ``max_context_len``, in tokens.
        limit: The model's own limit; None is not known.

    Raises:
        ModelLoadFailed: ``asked`` is larger.
    """
    if limit is not None and asked > limit:
        raise ModelLoadFailed(f"{name}: max_context_len is {asked}, the model's own limit is {limit} tokens")


def checkSampling(sampling: RKLLMSamplingParam, where: str) -> None:
    """Check the sampling parameters found at a JSON path. llama.cpp takes every nonsense in silence.

    Raises:
        InvalidParams: A value is out of range.
    """
    checkFields(sampling, where)
    check(f"{where}.top_k", sampling.top_k, "0 (no limit) or more", lambda value: value >= 0)
    if sampling.mirostat:
        check(f"{where}.mirostat_tau", sampling.mirostat_tau, "above 0", lambda value: value > 0)
        check(f"{where}.mirostat_eta", sampling.mirostat_eta, "0 or more", lambda value: value >= 0)


def checkInput(input: RKLLMInput, where: str) -> None:
    """Check that the member that ``input_type`` names is there and in itself consistent.

    Args:
        input: The input.
        where: Its JSON path.

    Raises:
        InvalidParams: It is not.
    """
    member = RKLLMInput.MEMBERS[input.input_type]
    if input.chosen is None:
        raise InvalidParams(f"{where}.{member}: expected a value, as input_type is {input.input_type.name}")
    if (
        input.input_type in (InputType.RKLLM_INPUT_PROMPT, InputType.RKLLM_INPUT_MULTIMODAL)
        and input.role not in input.ROLES
    ):
        raise InvalidParams(f'{where}.role: expected "user" or "tool", got {input.role!r}')


def tokensOf(input: RKLLMInput, vocabularySize: int, where: str) -> list[int]:
    """The ids of a token input. llama.cpp ends the process on an id that the vocabulary has not.

    Raises:
        InvalidParams: There are none, fewer than ``n_tokens`` says, or one is unknown.
    """
    assert input.token_input is not None
    path, given = f"{where}.token_input", input.token_input
    length = len(given.input_ids)
    check(f"{path}.n_tokens", given.n_tokens, f"1 to {length}, as input_ids", range(1, length + 1).__contains__)
    ids = given.input_ids[: given.n_tokens]
    for index, token in enumerate(ids):
        check(f"{path}.input_ids[{index}]", token, f"0 to {vocabularySize - 1}", range(vocabularySize).__contains__)
    return ids


def check(path: str, value: Number, expected: str, accepts: Callable[[Number], bool]) -> None:
    """Raise InvalidParams unless ``accepts`` says yes to the value."""
    if not accepts(value):
        raise InvalidParams(f"{path}: expected {expected}, got {value!r}")

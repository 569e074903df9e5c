"""What the frames say: calls with their arguments, results, answers and failures, as MessagePack."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from rkllm_twisted.errors import BY_CODE, InternalError, RKLLMError
from rkllm_twisted.values import (
    CallState,
    Capability,
    Delivery,
    EncodedResult,
    RKLLMCrossAttnParam,
    RKLLMInferParam,
    RKLLMInput,
    RKLLMLoraAdapter,
    RKLLMParam,
    RKLLMPerfStat,
    RKLLMResult,
)

ARGUMENTS: dict[str, Any] = {
    "init": tuple[RKLLMParam],
    "run": tuple[RKLLMInput, RKLLMInferParam, Delivery],
    "runBatch": tuple[list[RKLLMInput], RKLLMInferParam, Delivery],
    "destroy": tuple[()],
    "loadLora": tuple[RKLLMLoraAdapter],
    "loadPromptCache": tuple[str],
    "releasePromptCache": tuple[()],
    "clearKVCache": tuple[bool, list[tuple[int, int]] | None],
    "getKVCacheSize": tuple[()],
    "setChatTemplate": tuple[str, str, str],
    "setFunctionTools": tuple[str, str, str],
    "setCrossAttnParams": tuple[RKLLMCrossAttnParam],
}
"""What can be called, and the types of its arguments: ``init`` and the functions of `interfaces.IRuntimeModel`."""
RUNS = ("run", "runBatch")
NEEDS = {
    "loadLora": Capability.LORA,
    "loadPromptCache": Capability.PROMPT_CACHE,
    "releasePromptCache": Capability.PROMPT_CACHE,
    "clearKVCache": Capability.CLEAR_KV_CACHE,
    "getKVCacheSize": Capability.KV_CACHE_SIZE,
    "setChatTemplate": Capability.CHAT_TEMPLATE,
    "setFunctionTools": Capability.FUNCTION_TOOLS,
    "setCrossAttnParams": Capability.CROSS_ATTENTION,
}
"""What a runtime must be capable of for each function."""


class RunEnd(Struct):
    """What a run returned.

    Attributes:
        reason: As `interfaces.IRuntimeModel.run` returns it.
        perf: Of its FINISH; None if there was none.
        hasError: Whether it reported the state ERROR.
    """

    reason: str | None
    perf: RKLLMPerfStat | None
    hasError: bool


class _Call(Struct, array_like=True):
    name: str
    arguments: Raw


class _Failure(Struct, array_like=True):
    code: int
    detail: str
    data: dict[str, Any]


_encode = msgspec.msgpack.Encoder().encode
_encodeFailure = msgspec.msgpack.Encoder(enc_hook=repr).encode  # the data of a backend's error may be anything
_decodeCall = msgspec.msgpack.Decoder(_Call).decode
_decodeFailure = msgspec.msgpack.Decoder(_Failure).decode
_decodeResult = msgspec.msgpack.Decoder(RKLLMResult).decode
_decodeArguments = {name: msgspec.msgpack.Decoder(kind).decode for name, kind in ARGUMENTS.items()}
_STATES = tuple(CallState)
_ENCODED, _TOKEN = 0x10, 0x20
"""Flags beside the state in the first byte of a result: it is JSON already; it is about a token."""


def packCall(name: str, arguments: tuple[Any, ...]) -> bytes:
    """A call."""
    return _encode(_Call(name, Raw(_encode(arguments))))


def unpackCall(body: bytes) -> tuple[str, tuple[Any, ...]]:
    """The name and the arguments of a call."""
    call = _decodeCall(body)
    return call.name, _decodeArguments[call.name](call.arguments)


def packResult(result: RKLLMResult | EncodedResult, state: CallState) -> bytes:
    """A result of a run."""
    if isinstance(result, EncodedResult):
        return bytes([state | _ENCODED | (_TOKEN if result.isToken else 0)]) + result.body
    return bytes([state]) + _encode(result)


def unpackResult(body: bytes) -> tuple[RKLLMResult | EncodedResult, CallState]:
    """A result, and its state."""
    flags = body[0]
    state = _STATES[flags & 0x0F]
    if flags & _ENCODED:
        return EncodedResult(body[1:], bool(flags & _TOKEN)), state
    return _decodeResult(memoryview(body)[1:]), state


def packAnswer(answer: object) -> bytes:
    """What a call returned."""
    return _encode(answer)


def unpackAnswer(body: bytes, kind: Any) -> Any:
    """What a call returned, which is of a type."""
    return msgspec.msgpack.decode(body, type=kind)


def packFailure(error: RKLLMError) -> bytes:
    """An error."""
    detail = error.detail.encode("utf-8", "replace").decode()
    return _encodeFailure(_Failure(error.code, detail, error.data))


def unpackFailure(body: bytes) -> RKLLMError:
    """The error that was packed."""
    failure = _decodeFailure(body)
    kind = BY_CODE.get(failure.code, InternalError)
    error = kind.__new__(kind)
    RKLLMError.__init__(error, failure.detail)
    error.data = failure.data
    return error

"""LoRA adapters: a file into something that runs choose by name.

llama.cpp reads the values of an adapter without a look at their types, and computes with whatever tensors it brings: a
few bytes of damage end the process (found by loading every type in the place of every other, and thousands of mutated
headers). So both are looked at here first.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

from msgspec import Struct

from rkllm_twisted.backends.llamacpp.header import FLOAT, NUMBERS, STRING, BadFile, Header, readHeader
from rkllm_twisted.backends.llamacpp.library import Library
from rkllm_twisted.errors import InvalidParams, RuntimeCallFailed
from rkllm_twisted.ranges import cut, nearest
from rkllm_twisted.values import RKLLMLoraAdapter, RKLLMLoraParam

KINDS = {"general.architecture": STRING, "adapter.type": STRING, "adapter.lora.alpha": FLOAT}
"""The values that llama.cpp reads of an adapter, beside ``general.type``, and their types."""


class Adapter(Struct, frozen=True):
    """A loaded adapter. Its memory is the model's, which frees it.

    Attributes:
        pointer: Of the adapter; None stands for the base model.
        scale: How strongly it applies.
        key: What tells what is computed with it from what is computed with another, or with another scale.
    """

    pointer: Any
    scale: float
    key: str


BASE = Adapter(None, 0.0, "")
"""No adapter."""


class Adapters:
    """The adapters of one model, by their names. There is no way to unload one, as RKLLM has none.

    Args:
        library: The functions.
        model: The model that they are for.
    """

    def __init__(self, library: Library, model: Any) -> None:
        self._library = library
        self._model = model
        self._named: dict[str, Adapter] = {}

    def free(self) -> None:
        """The model is gone. A call that comes too late is then a TypeError and not a read of freed memory."""
        self._model = None
        self._named.clear()

    def load(self, adapter: RKLLMLoraAdapter) -> None:
        """Load one.

        Raises:
            InvalidParams: The name is in use.
            RuntimeCallFailed: The file is missing, unreadable, damaged, no adapter, or for another model.
        """
        name, path = adapter.lora_adapter_name, adapter.lora_adapter_path
        if name in self._named:
            raise InvalidParams(
                f"$.lora_adapter.lora_adapter_name: expected a name that is not in use, got {cut(name)!r}"
            )
        try:
            checkAdapter(readHeader(path))
            digest = _digest(path)
        except (BadFile, OSError) as reason:
            raise _failed(str(reason)) from None
        with self._library.reasons() as reasons:
            pointer = self._library.c.llama_adapter_lora_init(self._model, os.fsencode(path))
            if not pointer:
                raise _failed(reasons().replace(path, os.path.basename(path)))
        self._named[name] = Adapter(pointer, adapter.scale, f"{digest} {adapter.scale!r}")

    def chosen(self, param: RKLLMLoraParam | None) -> Adapter:
        """The adapter that a run chooses, `BASE` if it chooses none.

        Raises:
            InvalidParams: None of that name is loaded.
        """
        if param is None:
            return BASE
        name = param.lora_adapter_name
        if name not in self._named:
            known = ", ".join(map(cut, self._named)) or "none is loaded"
            raise InvalidParams(
                "$.rkllm_infer_params.lora_params.lora_adapter_name: expected the name of a loaded adapter "
                f"({known}), got {cut(name)!r}{nearest(name, self._named)}"
            )
        return self._named[name]


def checkAdapter(header: Header) -> None:
    """Refuse a file over which llama.cpp would end the process, now or in a run.

    Raises:
        BadFile: It is no adapter, or a damaged one.
    """
    kind = header.values.get("general.type")
    if kind != "adapter":
        raise BadFile("the file is no LoRA adapter" + (f": it says that it is a {kind}" if kind else ""))
    for key, expected in KINDS.items():
        if (found := header.kinds.get(key, expected)) != expected:
            raise BadFile(f"the value of {key!r} has the type {found}, expected {expected}")
    for name, tensor in header.tensors.items():
        if tensor.kind not in NUMBERS:
            raise BadFile(f"the weights of {cut(name)!r} have the type {tensor.kind}, which cannot be computed with")
        if any(size != 1 for size in tensor.dimensions[2:]):
            raise BadFile(f"{cut(name)!r} has {len(tensor.dimensions)} dimensions, expected 2")
    down, up = (header.tensors.get(f"token_embd.weight.lora_{half}") for half in "ab")
    if down and up and down.dimensions[:1] != up.dimensions[:1]:  # of the others llama.cpp compares the ranks itself
        raise BadFile("the two halves of 'token_embd.weight' have different ranks")


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _failed(reason: str) -> RuntimeCallFailed:
    return RuntimeCallFailed(reason, function="rkllm_load_lora", status=-1)

"""Values into C's structs.

The structs of `rkllm_twisted.values` and of C have the same field names, so that each field that a family has is filled
by its name. Everything else stays zero: a struct that the library reads has no byte that nobody chose.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from rkllm_twisted.values import RKLLMInput

LARGEST_INPUT = 208
"""The bytes of an RKLLMInput of 1.3.1, the largest there is. An input always has that many after its start, so that a
library that looks at a later field than its family has finds zeros."""


class Writer:
    """Fills structs, and owns the memory that they point to: keep it until the library has let go of them.

    Args:
        ffi: The cffi types of the family.
    """

    def __init__(self, ffi: Any) -> None:
        self._ffi = ffi
        self._owned: list[Any] = []

    def new(self, struct: str, value: Struct) -> Any:
        """A pointer to a new struct, filled with a value."""
        pointer = self._own(self._ffi.new(f"{struct} *"))
        self.fill(pointer[0], value)
        return pointer

    def text(self, text: str) -> Any:
        """A string of C."""
        return self._own(self._ffi.new("char[]", text.encode("utf-8", "surrogateescape")))

    def inputs(self, inputs: Sequence[RKLLMInput]) -> Any:
        """A pointer to as many inputs, one after the other as the family lays them out.

        Args:
            inputs: Of each only the member that its ``input_type`` names is set: in C they share their place.
        """
        stride = self._ffi.sizeof("RKLLMInput")
        length = (len(inputs) - 1) * stride + LARGEST_INPUT
        room = self._own(self._ffi.new("uint64_t[]", -(-length // 8)))  # aligned as its pointers need it
        first = self._ffi.cast("RKLLMInput *", room)
        for index, input in enumerate(inputs):
            self.fill(first[index], input)
        return first

    def fill(self, target: Any, value: Struct) -> None:
        """Fill the fields that both have; what is None, or an empty list, stays zero."""
        for name, field in self._ffi.typeof(target).fields:
            given = getattr(value, name, None)
            if given is not None and given != []:
                self._fillField(target, name, field.type, given)

    def _fillField(self, target: Any, name: str, type: Any, given: Any) -> None:
        if isinstance(given, Struct) and type.kind == "struct":
            self.fill(getattr(target, name), given)
        elif isinstance(given, Struct):
            setattr(target, name, self.new(type.item.cname, given))
        elif isinstance(given, str):
            setattr(target, name, self.text(given))
        elif isinstance(given, list):
            setattr(target, name, self._own(self._ffi.new(f"{type.item.cname}[]", given)))
        else:
            setattr(target, name, given)

    def _own(self, memory: Any) -> Any:
        self._owned.append(memory)
        return memory

"""What fits a field: numbers and texts with their ranges, the ranges in words, and the check of what no decoder saw.

The types are C's, narrowed where the manual names a range. Where it does not, whatever C can hold is accepted.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Iterable
from enum import Enum
from functools import reduce
from types import NoneType, UnionType
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from rkllm_twisted.errors import InvalidParams

MAX_FLOAT = 3.4028234663852886e38
"""FLT_MAX: above it, the conversion to a float of C gives infinity."""
MAX_PATH = 4095
"""The bytes of the longest path that Linux opens: PATH_MAX without the NUL at its end."""
MAX_SOCKET_PATH = 107
"""The bytes of the longest path of a Unix socket: ``sun_path`` without its NUL (unix(7))."""
# Said in the schema and checked by `checkNul`: a pattern that msgspec checks costs 1 ms for each MB of text, and in a
# union with a list it reads freed memory (msgspec 0.22).
_NO_NUL = Meta(extra_json_schema={"pattern": r"^[^\u0000]*$"})

Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
UInt32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Size = Annotated[int, Meta(ge=0, le=2**31 - 1)]
"""How many, or how large: ``size_t`` or ``int`` of C. What is larger than an ``int`` fits into no memory anyway."""
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Flag = bool | Annotated[int, Meta(ge=0, le=1)]
Float = Annotated[float, Meta(ge=-MAX_FLOAT, le=MAX_FLOAT)]
Text = Annotated[str, _NO_NUL]
"""Becomes a string of C, which would end at a NUL."""
Path = Annotated[Text, Meta(max_length=MAX_PATH)]
Name = Annotated[Text, Meta(min_length=1, max_length=255)]

_LIMITS = ("gt", "ge", "lt", "le", "min_length", "max_length")
_WORDS = {"int": "integer", "float": "number", "str": "string", "bool": "true or false", "list": "array"}


def explain(message: str, kind: Any, path: str, show: Callable[[str], str]) -> str:
    """What msgspec said of a value, in the words of W-ERRORS.

    Args:
        message: Of the ``msgspec.ValidationError``.
        kind: The type that was expected.
        path: The JSON path of the value.
        show: Gives the text of what stands at a path inside the value, such as ``.embed[3]``.
    """
    what, inner = _parted(message)
    place, here = path + inner, _typeAt(kind, inner)
    if named := re.fullmatch(r"Object contains unknown field `(.*)`", what, re.DOTALL):
        known = [name for part in _alternatives(here) for name in getattr(part, "__struct_fields__", ())]
        return f"{place}.{cut(named[1])}: unknown field{nearest(named[1], known)}"
    if named := re.fullmatch(r"Object missing required field `(.*)`", what):
        return f"{place}.{named[1]}: missing"
    return f"{place}: expected {_expected(what, here)}, got {cut(show(inner))}"


def checkFields(value: Struct, where: str) -> None:
    """Check a value that no decoder has seen against the ranges of its fields, for direct users of a runtime.

    Args:
        value: With every field set.
        where: Its JSON path, such as ``$.param``.

    Raises:
        InvalidParams: A field does not fit; the first that is found.
    """
    fields = msgspec.to_builtins(value)
    try:
        msgspec.convert(fields, type(value))
    except msgspec.ValidationError as error:
        raise InvalidParams(explain(str(error), type(value), where, lambda inner: _textAt(fields, inner))) from None


def checkNul(value: object, where: str) -> None:
    """Refuse a text with a NUL in it, in the fields of structs; what stands in plain JSON is spelled as JSON again.

    Args:
        value: A text, a struct or a list of structs; anything else passes.
        where: Its JSON path.

    Raises:
        InvalidParams: There is one.
    """
    if isinstance(value, str) and "\0" in value:
        raise InvalidParams(f"{where}: expected string without NUL characters, got {cut(repr(value))}")
    if isinstance(value, Struct):
        for name in value.__struct_fields__:
            checkNul(getattr(value, name), f"{where}.{name}")
    elif isinstance(value, list) and value and isinstance(value[0], Struct):
        for index, item in enumerate(value):
            checkNul(item, f"{where}[{index}]")


def cut(text: str) -> str:
    """A text that a client sent, short enough for a message."""
    return text if len(text) <= 60 else f"{text[:57]}..."


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name."""
    import difflib  # 6 ms, and most clients know their names

    near = difflib.get_close_matches(name[:64], known, n=1, cutoff=0)
    return f", the nearest known one is {near[0]}" if near else ""


def steps(inner: str) -> list[str | int]:
    """The names and indexes of a path inside a value, such as ``.embed[3]``."""
    return [int(index) if index else name for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", inner)]


def inWords(kind: Any) -> str:
    """A type with its range, such as ``integer from 1 to 100``. Null as an alternative is left out."""
    parts = _alternatives(kind)
    return "true, false, 1 or 0" if _isFlag(parts) else " or ".join(map(_partInWords, parts))


def _expected(what: str, kind: Any) -> str:
    if what == "Number out of range" or str(MAX_FLOAT) in what:
        return "a number that a C type can hold"
    mismatch = re.match(r"Expected `([^`]*)`, got ", what)
    if mismatch is None or _isFlag(_alternatives(kind)) or any(map(_isChoice, _alternatives(kind))):
        return inWords(kind)
    words = [_WORDS.get(word, word) for word in mismatch[1].split(" | ")]
    return " or ".join(word for word in words if word != "null" or len(words) == 1)


def _partInWords(part: Any) -> str:
    kind, limits = _bare(part)
    if _isChoice(kind):
        members = typing.get_args(kind) or [member.value for member in kind]
        return "one of " + ", ".join(f'"{member}"' if isinstance(member, str) else str(member) for member in members)
    kind = typing.get_origin(kind) or kind
    isObject = isinstance(kind, type) and issubclass(kind, Struct | dict)
    word = "object" if isObject else _WORDS.get(kind.__name__, "value")
    return word + _ofLength(limits, "values" if kind is list else "characters") + _inRange(limits)


def _inRange(limits: Meta) -> str:
    low, high = (None if limit in (MAX_FLOAT, -MAX_FLOAT) else limit for limit in (limits.ge, limits.le))
    if limits.gt is not None:
        return f" above {limits.gt:g}" + ("" if high is None else f", at most {high:g}")
    if low is None:
        return "" if high is None else f" of {high} or less"
    return f" of {low} or more" if high is None else f" from {low} to {high}"


def _ofLength(limits: Meta, unit: str) -> str:
    if limits.max_length is None:
        return "" if limits.min_length is None else f" of at least {limits.min_length} {unit}"
    return f" of {limits.min_length or 'at most'}{' to' if limits.min_length else ''} {limits.max_length} {unit}"


def _parted(message: str) -> tuple[str, str]:
    """What is wrong, and the path inside the value."""
    what, _, inner = message.rpartition(" - at `$")
    isWhole = not what or what.count("`") % 2  # the name of an unknown field may be anything, this included
    return (message, "") if isWhole else (what, inner[:-1])


def _typeAt(kind: Any, inner: str) -> Any:
    for step in steps(inner.replace("[...]", "[0]")):
        within = [_typeWithin(_bare(part)[0], step) for part in _alternatives(kind)]
        kind = next((found for found in within if found is not None), object)
    return kind


def _typeWithin(kind: Any, step: str | int) -> Any:
    if isinstance(step, int):
        return typing.get_args(kind)[0] if typing.get_origin(kind) is list else None
    isStruct = isinstance(kind, type) and issubclass(kind, Struct)
    return typing.get_type_hints(kind, include_extras=True).get(step) if isStruct else None


def _textAt(fields: Any, inner: str) -> str:
    return repr(reduce(lambda value, step: value[step], steps(inner), fields))


def _alternatives(kind: Any) -> list[Any]:
    parts = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, UnionType) else (kind,)
    return [part for part in parts if part is not NoneType] or [kind]


def _isFlag(parts: list[Any]) -> bool:
    return set(parts) == set(typing.get_args(Flag))


def _isChoice(kind: Any) -> bool:
    return typing.get_origin(kind) is Literal or (isinstance(kind, type) and issubclass(kind, Enum))


def _bare(kind: Any) -> tuple[Any, Meta]:
    """A type without its range, and its range, whose parts may be given one after the other."""
    if typing.get_origin(kind) is not Annotated:
        return kind, Meta()
    given = ((name, getattr(meta, name)) for meta in kind.__metadata__ for name in _LIMITS)
    return kind.__origin__, Meta(**{name: limit for name, limit in given if limit is not None})

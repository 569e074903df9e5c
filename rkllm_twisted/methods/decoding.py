"""The JSON of ``params`` into structs, with errors that name the place (W-PARAMS, W-ERRORS).

A field that is left out or null takes the runtime's default, which is known only when the call is carried out. So
structs are decoded into *partial* ones, in which what was not given is None, and `completed` fills these in.
"""

from __future__ import annotations

import re
import types
import typing
from functools import cache
from typing import Annotated, Any, Generic, TypeVar, cast

import msgspec
from msgspec import Raw, Struct, structs

from rkllm_twisted.errors import InvalidParams, ParseError
from rkllm_twisted.ranges import checkNul, cut, explain, nearest, steps

Kind = TypeVar("Kind", bound=Struct)
_NOTHING = (b"", b"[null]", b"[]")
"""The params of a call that gives none, as nearly all clients spell it: known at sight in 0.1 us, decoded in 2."""


@cache
def partial(kind: type[Struct]) -> type[Struct]:
    """The twin of a struct in which every field that has a default may be null or left out, and is then None."""
    fields: list[Any] = []
    for name, annotation in typing.get_type_hints(kind, include_extras=True).items():
        if name in kind.__struct_fields__:
            twin = _partialOf(annotation)
            fields.append((name, twin) if _isRequired(kind, name) else (name, typing.Union[twin, None], None))  # noqa: UP007
    namespace = {"ORIGINAL": kind, "__doc__": kind.__doc__}
    return msgspec.defstruct(kind.__name__, fields, namespace=namespace, forbid_unknown_fields=True, kw_only=True)


def completed(given: Kind, default: Kind | None = None) -> Kind:
    """A whole struct out of a partial one.

    Args:
        given: A partial struct.
        default: Where what was not given comes from; without it, the defaults of the struct's class.
    """
    values = {} if default is None else structs.asdict(default)
    for name, value in structs.asdict(given).items():
        if value is not None:
            values[name] = _completedValue(value, values.get(name))
    return cast("type[Kind]", _original(type(given)))(**values)


def _completedValue(value: Any, default: Any) -> Any:
    if isinstance(value, Struct):
        return completed(value, default)
    if isinstance(value, list) and value and isinstance(value[0], Struct):
        return [completed(item) for item in value]
    return value


class ParamsDecoder(Generic[Kind]):
    """Decodes the params of one method in the three shapes of W-PARAMS.

    Args:
        kind: A struct with a field for each C parameter after the handle, in C's order and under C's names.

    Attributes:
        kind: The same.
        types: What each parameter is decoded as, by its name. Null is not among it where it only means "left out".
        required: The names of those that may not be left out.
    """

    def __init__(self, kind: type[Kind]) -> None:
        self.kind = kind
        hints = typing.get_type_hints(kind, include_extras=True)
        self.types = {name: _partialOf(hints[name]) for name in kind.__struct_fields__}
        self._decoders = {name: msgspec.json.Decoder(type) for name, type in self.types.items()}
        self.required = [name for name in kind.__struct_fields__ if _isRequired(kind, name)]
        self._defaults = None if self.required else kind()

    def decode(self, params: bytes) -> Kind:
        """Decode.

        Args:
            params: The JSON of the params; empty if there were none.

        Returns:
            The parameters; structs among them are partial.

        Raises:
            InvalidParams: Naming the JSON path, what was expected and what came.
            ParseError: A string is no UTF-8, or the JSON is nested too deeply.
        """
        if self._defaults is not None and params in _NOTHING:
            return self._defaults
        values = {}
        for name, (path, value) in self._given(params).items():
            if value != b"null" or name in self.required:
                values[name] = self._decodeOne(name, path, value)
        for name in self.required:
            if name not in values:
                raise InvalidParams(f"$.params: {name} is missing")
        return self.kind(**values)

    def locate(self, params: bytes, detail: str) -> str:
        """A detail about a parameter by its name, ``$.param.FIELD: …``, as one about its place in these params."""
        name = re.match(r"\$\.(\w+)", detail)
        given = self._given(params)
        if name is None or name[1] not in given:
            return detail
        return given[name[1]][0] + detail[name.end() :]

    def _given(self, params: bytes) -> dict[str, tuple[str, bytes]]:
        """The JSON of each parameter that was given, and its path."""
        if not params:
            return {}
        try:
            return self._givenByPosition(params) if params[:1] == b"[" else self._givenByName(params)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ParseError(f"$.params: {error}") from None

    def _givenByPosition(self, params: bytes) -> dict[str, tuple[str, bytes]]:
        elements = [bytes(element) for element in msgspec.json.decode(params, type=list[Raw])]
        first = 1 if elements and elements[0] == b"null" else 0
        names = self.kind.__struct_fields__
        if len(elements) - first > len(names):
            most, takes = len(names) + first, ", ".join(["handle", *names][1 - first :]) or "the handle is null"
            raise InvalidParams(f"$.params: expected at most {most} values ({takes}), got {len(elements)}")
        return {
            name: (f"$.params[{index}]", element)
            for index, (name, element) in enumerate(zip(names, elements[first:]), first)  # noqa: B905  # the rest is left out
        }

    def _givenByName(self, params: bytes) -> dict[str, tuple[str, bytes]]:
        given = {name: bytes(value) for name, value in msgspec.json.decode(params, type=dict[str, Raw]).items()}
        handle = given.pop("handle", b"null")
        if handle != b"null":
            raise InvalidParams(f"$.params.handle: expected null (the one model), got {_shown(handle, '')}")
        for name in given:
            if name not in self.types:
                raise InvalidParams(f"$.params.{cut(name)}: unknown parameter{nearest(name, ['handle', *self.types])}")
        return {name: (f"$.params.{name}", value) for name, value in given.items()}

    def _decodeOne(self, name: str, path: str, value: bytes) -> Any:
        try:
            decoded = self._decoders[name].decode(value)
        except msgspec.ValidationError as error:
            detail = explain(str(error), self.types[name], path, lambda inner: _shown(value, inner))
            raise InvalidParams(detail) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ParseError(f"{path}: {error}") from None
        if rb"\u0000" in value:  # JSON has no other way to spell it
            checkNul(decoded, path)
        return decoded


def _shown(value: bytes, inner: str) -> str:
    """What stands at a path inside a JSON value, as it came."""
    for step in steps(inner):
        try:
            members: Any = msgspec.json.decode(value, type=dict[str, Raw] if isinstance(step, str) else list[Raw])
            value = bytes(members[step])
        except (msgspec.DecodeError, LookupError):
            break  # a key that comes twice: msgspec speaks of the first, this finds the last
    return value[:256].decode(errors="replace")


def _partialOf(annotation: Any) -> Any:
    """The annotation with every struct in it replaced by its partial twin."""
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return partial(annotation)
    if _isUnion(annotation):
        return typing.Union[tuple(_partialOf(part) for part in typing.get_args(annotation))]  # noqa: UP007  # made here
    if typing.get_origin(annotation) is Annotated:
        parts = (_partialOf(annotation.__origin__), *annotation.__metadata__)
        return Annotated[parts]
    if typing.get_origin(annotation) is list:
        return list[_partialOf(typing.get_args(annotation)[0])]  # type: ignore[misc]  # made here
    return annotation


def _isUnion(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _isRequired(kind: type[Struct], name: str) -> bool:
    field = next(field for field in structs.fields(kind) if field.name == name)
    return field.required


def _original(twin: type[Struct]) -> type[Struct]:
    original: type[Struct] = twin.ORIGINAL  # type: ignore[attr-defined]  # `partial` gives it
    return original

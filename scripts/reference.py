"""Writes docs/reference/methods.md, from the document of rpc.discover. A test compares the file with what this writes.

Usage: python scripts/reference.py >docs/reference/methods.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from twisted.internet.task import Clock

from rkllm_twisted.backends.scripted import ScriptedBackend
from rkllm_twisted.methods.openrpc import document
from rkllm_twisted.testing.peers import Server

INT32 = 2**31 - 1
FLOAT = 3.4028234663852886e38
WHOLE = "Whole"
"""How the name begins of an object of which every field is sent."""
HEAD = """# Methods

What each method takes and answers. **Generated** by `scripts/reference.py` from what validates the calls; the daemon's
own answer to `rpc.discover` is the same as an [OpenRPC](https://spec.open-rpc.org) document.

By name, parameters have the names below. By position, they stand in the order of the tables; the handle, which is
null, comes first or is left out. What has something under "default" may be left out or null, the rest must be given.
The defaults of `rkllm.init` are the runtime's own, as `rkllm.createDefaultParam` shows them; the tables have those of
RKLLM's manual. What holds for all methods is in [the wire contract](wire.md).
"""
COLUMNS = ("| name | type | default | what it is |", "|---|---|---|---|")


class Reference:
    """The page.

    Args:
        described: The OpenRPC document.
    """

    def __init__(self, described: dict[str, Any]) -> None:
        self._methods = described["methods"]
        self._schemas = described["components"]["schemas"]
        self._errors = described["components"]["errors"]

    def lines(self) -> Iterator[str]:
        """Its lines."""
        yield from HEAD.splitlines()
        for method in self._methods:
            yield from self._method(method)
        yield from ("", "## Objects")
        for name in self._mentioned():
            yield from self._object(name)
        yield from ("", "## Errors", "", "| code | message | may the same request succeed later? |", "|---|---|---|")
        for error in sorted(self._errors.values(), key=lambda error: -error["code"]):
            isRetryable = error.get("data", {}).get("retryable")
            yield f"| {error['code']} | {error['message']} | {'yes' if isRetryable else 'no'} |"

    def _method(self, method: dict[str, Any]) -> Iterator[str]:
        yield from ("", f"## `{method['name']}`", "", method["summary"])
        if "description" in method:
            yield from ("", method["description"])
        params = method["params"][1:]
        if params:
            yield from ("", *COLUMNS)
        for param in params:
            yield self._row(param["name"], {**param, **param["schema"]}, param["required"])
        lines = "Lines" if method.get("x-streams") else "Result"
        yield from ("", f"{lines}: {self._type(method['result']['schema'])}.")
        codes = sorted((self._errors[nameOf(error)]["code"] for error in method["errors"]), reverse=True)
        yield from ("", f"[Errors](#errors): {', '.join(map(str, codes))}.")

    def _object(self, name: str) -> Iterator[str]:
        schema = self._schemas[name]
        yield from ("", f"### {name}", "", schema["description"], "", *COLUMNS)
        for field, shown in schema["properties"].items():
            yield self._row(field, shown, field in schema["required"])

    def _row(self, name: str, schema: dict[str, Any], isRequired: bool) -> str:
        default = "" if isRequired else spelled(schema["default"]) if "default" in schema else "none"
        kind = self._type(schema)
        shown = kind if isRequired else kind.removesuffix(" or null")
        return f"| `{name}` | {shown} | {default} | {schema.get('description', '')} |"

    def _type(self, schema: dict[str, Any]) -> str:
        """A schema in words."""
        if "$ref" in schema:
            name = nameOf(schema)
            named = self._schemas[name]
            shown = name.removeprefix(WHOLE)
            every = "" if shown == name else " with every field"
            return self._type(named) if "enum" in named else f"[{shown}](#{shown.lower()}){every}"
        if "anyOf" in schema:
            kinds = sorted((self._type(one) for one in schema["anyOf"]), key="null".__eq__)  # null is the last
            return " or ".join(kinds).replace("boolean or integer, 0 to 1", "true, false, 1 or 0")
        if "enum" in schema:
            return " or ".join(map(spelled, schema["enum"]))
        kind = schema.get("type", "any JSON")
        if kind == "array":
            return f"array{sizeInWords(schema, 'Items')} of {self._type(schema.get('items', {}))}"
        return kind + rangeInWords(schema) + sizeInWords(schema, "Length", " characters")

    def _mentioned(self) -> list[str]:
        """The names of the objects, in the order in which the methods mention them."""
        found: dict[str, None] = {}
        for method in self._methods:
            self._find([method["params"], method["result"]], found)
        return list(found)

    def _find(self, node: Any, found: dict[str, None]) -> None:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            name = nameOf(node).removeprefix(WHOLE) if key == "$ref" else ""
            if name and name not in found and "properties" in self._schemas[name]:
                found[name] = None
                self._find(self._schemas[name], found)
            elif isinstance(value, dict | list):
                self._find(value, found)


def nameOf(reference: dict[str, Any]) -> str:
    """The name of a component that is referred to."""
    return str(reference["$ref"]).rpartition("/")[2]


def spelled(value: object) -> str:
    """A value as JSON, in code."""
    return f"`{msgspec.json.encode(value).decode()}`"


def rangeInWords(schema: dict[str, Any]) -> str:
    """What a number may be; what C's types can hold goes without saying."""
    low, above, high = (schema.get(name) for name in ("minimum", "exclusiveMinimum", "maximum"))
    low, high = None if low in (-FLOAT, -INT32 - 1) else low, None if high in (FLOAT, INT32) else high
    if above is not None:
        return f" above {above}" + ("" if high is None else f", at most {high}")
    if low is None or high is None:
        return "" if low is None else f", {low} or more"
    return f", {low} to {high}"


def sizeInWords(schema: dict[str, Any], what: str, unit: str = "") -> str:
    """How long a string or an array may be."""
    least, most = schema.get(f"min{what}"), schema.get(f"max{what}")
    if most is None:
        return ""
    return f" ({least} to {most}{unit})" if least else f" (at most {most}{unit})"


def described() -> dict[str, Any]:
    """The document of the whole table."""
    clock = Clock()
    table = Server(ScriptedBackend(clock), clock).factory.table
    return document(table.methods.values(), "")


def write(lines: Iterable[str]) -> None:
    """To standard output."""
    sys.stdout.writelines(f"{line}\n" for line in lines)


if __name__ == "__main__":
    write(Reference(described()).lines())

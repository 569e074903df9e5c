"""The table of methods as an OpenRPC document (``rpc.discover``), made of what validates the calls.

Descriptions are the docstrings under the fields, read from the sources when the document is made and not before.
"""

from __future__ import annotations

import ast
import inspect
import sys
import typing
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any, Union

import msgspec
from msgspec import UNSET, Struct, structs

from rkllm_twisted._version import __version__
from rkllm_twisted.errors import RKLLMError
from rkllm_twisted.methods.answers import ANSWERS, OF_ANY_CALL
from rkllm_twisted.methods.table import Answer, Method, MethodTable, NoParams
from rkllm_twisted.values import RKLLMSamplingParam, Value
from rkllm_twisted.wire.connection import Call

OPENRPC = "1.3.2"
"""The version of the specification."""
DEFAULTS_OF_INIT = (RKLLMSamplingParam,)
"""What is left out of these is as it was at init."""
_INFO = (
    "JSON-RPC 2.0 over a Unix socket, one message per line. Parameters go by name, or by position in this order; by "
    "position the handle, which is null, may be left out. What is left out or null takes its default; those of "
    "`rkllm.init` are the runtime's own, and `rkllm.createDefaultParam` shows them."
)
_HANDLE = {"name": "handle", "description": "The one model.", "required": False, "schema": {"type": "null"}}


def discover(table: MethodTable) -> Method:
    """The method ``rpc.discover`` of a table, to be added to it.

    Args:
        table: Describes what is in it when it is first asked, this method included.
    """

    @cache
    def whole() -> dict[str, Any]:
        return document(table.methods.values(), __version__)

    def carryOut(call: Call, params: NoParams) -> Answer:
        """Describe every method, as an OpenRPC document."""
        return whole()

    return Method("rpc.discover", NoParams, carryOut)


def document(methods: Iterable[Method], version: str) -> dict[str, Any]:
    """The OpenRPC document of methods.

    Args:
        methods: What it describes.
        version: Of this package.

    Returns:
        JSON, as Python spells it.
    """
    rows = list(methods)
    accepted = Schemas(kind for method in rows for kind in _accepted(method).values())
    answered = Schemas(kind for method in rows for kind in _answered(method))
    errors = dict.fromkeys(error for method in rows for error in _answer(method)[0])
    return {
        "openrpc": OPENRPC,
        "info": {"title": "rkllm-twisted", "version": version, "description": _INFO},
        "methods": [_described(method, accepted, answered) for method in rows],
        "components": {
            "schemas": {**answered.components, **accepted.components},
            "errors": {error.__name__: _error(error) for error in errors},
        },
    }


class Schemas:
    """JSON schemas of types, and of the structs in them as components.

    Args:
        kinds: The types.
    """

    def __init__(self, kinds: Iterable[Any]) -> None:
        self._kinds = list(kinds)
        self._schemas, self.components = msgspec.json.schema_components(
            self._kinds, ref_template="#/components/schemas/{name}"
        )
        for struct in dict.fromkeys(struct for kind in self._kinds for struct in _structsIn(kind)):
            _explain(struct, self.components[struct.__name__])

    def of(self, kind: Any) -> dict[str, Any]:
        """The schema of one of the types."""
        return self._schemas[self._kinds.index(kind)]


def _explain(struct: type[Struct], schema: dict[str, Any]) -> None:
    """Add what the fields mean, and the defaults that a partial struct hides."""
    original: type[Struct] = getattr(struct, "ORIGINAL", struct)
    fields, docs = structs.fields(original), fieldDocs(original)
    schema["description"] = _asMarkdown(original.__doc__ or "")
    if struct is original:  # the server sends every field that it does not leave unset
        schema["required"] = [field.name for field in fields if field.default is not UNSET]
    for field in fields:
        shown, default = schema["properties"][field.name], field.default
        shown.pop("default", None)
        if field.name in docs:
            shown["description"] = docs[field.name]
        if original not in DEFAULTS_OF_INIT and struct is not original and isinstance(default, str | int | float):
            shown["default"] = msgspec.to_builtins(default)


def fieldDocs(struct: type[Struct]) -> dict[str, str]:
    """The docstrings under the fields of a struct, those of its bases included; none where there is no source."""
    docs: dict[str, str] = {}
    for base in reversed(struct.__mro__):
        docs.update(_docsOf(base.__module__).get(base.__name__, {}))
    return docs


@cache
def _docsOf(module: str) -> dict[str, dict[str, str]]:
    """The docstrings under the fields of each class of one of our modules."""
    if not module.startswith("rkllm_twisted."):
        return {}
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except OSError:
        return {}
    return {node.name: dict(_documented(node.body)) for node in tree.body if isinstance(node, ast.ClassDef)}


def _documented(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for field, following in pairwise(body):
        match field, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(docstring))):
                yield name, _asMarkdown(docstring)


def _asMarkdown(docstring: str) -> str:
    return " ".join(inspect.cleandoc(docstring).replace("``", "`").split())


def _accepted(method: Method) -> dict[str, Any]:
    """The types of the parameters; those that may be left out may be null too."""
    decoder = method.parameters
    return {
        name: kind if name in decoder.required or kind is Any else Union[kind, None]  # noqa: UP007  # made here
        for name, kind in decoder.types.items()
    }


def _answer(method: Method) -> tuple[tuple[type[RKLLMError], ...], tuple[Any, ...]]:
    return ANSWERS.get(method.name, (OF_ANY_CALL, ()))


def _answered(method: Method) -> list[Any]:
    """The types of the results."""
    return [_whole(kind) if isinstance(kind, type) and issubclass(kind, Value) else kind for kind in _answer(method)[1]]


@cache
def _whole(kind: type[Struct]) -> type[Struct]:
    """The twin of a struct in which every field is set, as the server sends it."""
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = [
        (name, _whole(hint) if isinstance(hint, type) and issubclass(hint, Value) else hint)
        for name, hint in hints.items()
    ]
    return msgspec.defstruct(f"Whole{kind.__name__}", fields, namespace={"ORIGINAL": kind})


def _structsIn(kind: Any) -> Iterator[type[Struct]]:
    """The structs that a type is made of, itself included."""
    if isinstance(kind, type) and issubclass(kind, Struct):
        yield kind
        for field in structs.fields(kind):
            yield from _structsIn(field.type)
    for part in typing.get_args(kind):
        yield from _structsIn(part)


def _described(method: Method, accepted: Schemas, answered: Schemas) -> dict[str, Any]:
    """A method object."""
    summary, _, description = inspect.cleandoc(method.doc).partition("\n\n")
    texts = {"summary": _asMarkdown(summary), "description": _asMarkdown(description)}
    return {
        "name": method.name,
        **{name: text for name, text in texts.items() if text},
        **({"x-streams": True} if method.streams else {}),
        "paramStructure": "either",
        "params": [_HANDLE, *_params(method, accepted)],
        "result": {"name": "line" if method.streams else "result", "schema": _result(method, answered)},
        "errors": [{"$ref": f"#/components/errors/{error.__name__}"} for error in _answer(method)[0]],
    }


def _params(method: Method, accepted: Schemas) -> Iterator[dict[str, Any]]:
    docs = fieldDocs(method.parameters.kind)
    for name, kind in _accepted(method).items():
        yield {
            "name": name,
            **({"description": docs[name]} if name in docs else {}),
            "required": name in method.parameters.required,
            "schema": accepted.of(kind),
        }


def _result(method: Method, answered: Schemas) -> dict[str, Any]:
    schemas = [answered.of(kind) for kind in _answered(method)]
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas} if schemas else {}


def _error(error: type[RKLLMError]) -> dict[str, Any]:
    """An error object."""
    summary = (error.__doc__ or "").partition("\n")[0]
    data = {"data": {"retryable": error.retryable}} if error.code > -32100 else {}
    return {"code": error.code, "message": summary, **data}

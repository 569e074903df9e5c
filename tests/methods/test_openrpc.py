"""The table as an OpenRPC document: valid, complete, and of the same opinion as the decoders."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema.protocols import Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7
from twisted.internet.task import Clock

from rkllm_twisted.backends.scripted import ScriptedBackend
from rkllm_twisted.errors import BY_CODE, InvalidParams, ParseError
from rkllm_twisted.methods.answers import ANSWERS
from rkllm_twisted.methods.openrpc import document
from rkllm_twisted.testing.peers import Server
from tests.methods.everything import EVERYTHING, PLACES, replaced

TESTS = Path(__file__).parent.parent
ROOT = TESTS.parent
META = [json.loads((TESTS / "data" / "openrpc" / name).read_text()) for name in ("openrpc.json", "json-schema.json")]
TRANSCRIPTS = sorted((TESTS / "transcripts").glob("*.txt"))


CLOCK = Clock()
SERVER = Server(ScriptedBackend(CLOCK), CLOCK)
TABLE = SERVER.factory.table
DOCUMENT = document(TABLE.methods.values(), "1.2.3")
METHODS = {method["name"]: method for method in DOCUMENT["methods"]}


def validator(schema: dict[str, Any]) -> Validator:
    return jsonschema.Draft202012Validator({**schema, "components": DOCUMENT["components"]})


PARAMS = {
    (name, param["name"]): validator(param["schema"]) for name, method in METHODS.items() for param in method["params"]
}
RESULTS = {name: validator(method["result"]["schema"]) for name, method in METHODS.items()}


class TestDocument:
    def test_is_openrpc(self):
        resources = [Resource.from_contents(meta, default_specification=DRAFT7) for meta in META]
        registry = Registry().with_resources(
            [
                ("https://meta.json-schema.tools", resources[1]),
                ("https://meta.json-schema.tools/", resources[1]),
                ("https://meta.open-rpc.org/", resources[0]),
            ]
        )
        check = jsonschema.Draft7Validator(META[0], registry=registry)
        check.validate(DOCUMENT)
        assert not check.is_valid({**DOCUMENT, "methods": [{"name": "a"}]})

    def test_schemas_are_schemas(self):
        for schema in DOCUMENT["components"]["schemas"].values():
            jsonschema.Draft202012Validator.check_schema(schema)

    def test_every_reference_leads_somewhere(self):
        for reference in re.findall(r'"#/(components/[^"]*)"', json.dumps(DOCUMENT)):
            node: Any = DOCUMENT
            for step in reference.split("/"):
                node = node[step]

    def test_every_method_once_itself_included(self):
        assert [method["name"] for method in DOCUMENT["methods"]] == list(TABLE.methods)
        assert "rpc.discover" in METHODS
        assert set(ANSWERS) == set(METHODS)

    def test_errors_are_those_of_the_wire(self):
        """W-CODES."""
        for name, error in DOCUMENT["components"]["errors"].items():
            assert BY_CODE[error["code"]].__name__ == name
        codes = {error["code"] for error in DOCUMENT["components"]["errors"].values()}
        assert set(BY_CODE) - codes == {-32600, -32601}, "what is no call of a method of the table"

    def test_every_field_is_described(self):
        for name, schema in DOCUMENT["components"]["schemas"].items():
            if name != "RKLLMSamplingParam":
                bare = [field for field, shown in schema.get("properties", {}).items() if not shown.get("description")]
                assert bare == [], name

    def test_handle_is_null(self):
        """W-PARAMS."""
        assert all(method["params"][0]["name"] == "handle" for method in METHODS.values())
        assert PARAMS["rkllm.init", "handle"].is_valid(None)
        assert not PARAMS["rkllm.init", "handle"].is_valid(0)

    def test_ranges_and_defaults(self):
        extend = DOCUMENT["components"]["schemas"]["RKLLMExtendParam"]["properties"]["n_batch"]
        assert (extend["anyOf"][0]["minimum"], extend["anyOf"][0]["maximum"], extend["default"]) == (1, 100, 1)

    def test_over_the_wire(self):
        """Made once, however often it is asked for."""
        answers = [SERVER.connect().ask("rpc.discover")[0]["result"] for _ in range(2)]
        assert answers[0] == answers[1]
        assert answers[0]["methods"] == DOCUMENT["methods"]


def messages(path: Path) -> Iterator[tuple[str, str, Any]]:
    """The peer, the direction and the message of each line of a transcript that is JSON."""
    for line in path.read_text().splitlines():
        step = re.match(r"([a-z]?)(-->|<--)\s?(.*)", line)
        try:
            message = json.loads(step[3]) if step else None
        except ValueError:
            continue
        for one in message if isinstance(message, list) else [message]:
            if step and isinstance(one, dict):
                yield step[1], step[2], one


REQUESTS = [
    (path.stem, one)
    for path in TRANSCRIPTS
    for _, direction, one in messages(path)
    if direction == "-->" and one.get("method") in METHODS and isinstance(one.get("params", []), list | dict)
    if "Infinity" not in json.dumps(one)  # 1e400 is none of Python's numbers
]


def accepts(method: str, params: list[Any] | dict[str, Any]) -> bool:
    """Whether the decoder does."""
    try:
        TABLE.methods[method].parameters.decode(msgspec.json.encode(params))
    except (InvalidParams, ParseError):
        return False
    return True


def describes(method: str, params: list[Any] | dict[str, Any]) -> bool:
    """Whether the document says so."""
    names = [param["name"] for param in METHODS[method]["params"]]
    if isinstance(params, list):
        params = params if params[:1] == [None] else [None, *params]
        if len(params) > len(names):
            return False
        params = dict(zip(names, params, strict=False))
    required = {param["name"] for param in METHODS[method]["params"] if param["required"]}
    return required <= params.keys() <= set(names) and all(
        PARAMS[method, name].is_valid(value) for name, value in params.items()
    )


class TestAgreement:
    @pytest.mark.parametrize(("page", "request_"), REQUESTS)
    def test_requests_of_the_transcripts(self, page, request_):
        """W-PARAMS: what is answered without -32602 is valid, and what the decoder refuses is not."""
        params = request_.get("params", [])
        assert describes(request_["method"], params) == accepts(request_["method"], params)

    @pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
    def test_results_of_the_transcripts(self, path):
        """W-STREAM, W-FINISH."""
        asked: dict[tuple[str, str], list[str]] = {}  # an id may be used again
        for peer, direction, message in messages(path):
            methods = asked.setdefault((peer, json.dumps(message.get("id"))), [])
            if direction == "-->":
                methods.append(message.get("method"))
            elif "result" in message and methods:  # else it was asked beside another on one line
                assert any(RESULTS[method].is_valid(message["result"]) for method in methods if method in RESULTS)


NAMES = st.text(max_size=5) | st.just("role")
# No float that is a whole number: JSON Schema takes 1.0 for an integer, and C's int is none for us.
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**33), 2**33)
    | st.sampled_from([0, 1, 2, 100, 101, -1, 2**31, 10**40, 0.5, -0.5, 1e39, "", "a", "\0", "lines", "a" * 256])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=5,
)


def test_everything_is_accepted():
    for method, params in EVERYTHING.items():
        assert accepts(method, params), method
        assert describes(method, params), method


@settings(deadline=None, max_examples=600)
@given(st.sampled_from(PLACES), VALUES)
def test_document_and_decoder_agree(place, value):
    """W-PARAMS: also where a value is wrong, or a field unknown."""
    params = replaced(*place, value)
    assert describes(place[0], params) == accepts(place[0], params)


def test_reference_is_what_the_script_writes():
    """Else: python scripts/reference.py >docs/reference/methods.md"""
    script = [sys.executable, str(ROOT / "scripts" / "reference.py")]
    written = subprocess.run(script, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert written == (ROOT / "docs" / "reference" / "methods.md").read_text()

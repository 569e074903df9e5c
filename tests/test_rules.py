"""Every rule of the wire contract is shown by a test or a transcript, and none is named that does not exist."""

import re
from pathlib import Path

from twisted.internet.task import Clock

from rkllm_twisted.backends.scripted import ScriptedBackend
from rkllm_twisted.errors import BY_CODE
from rkllm_twisted.testing.peers import Server

ROOT = Path(__file__).parent.parent
CONTRACT = (ROOT / "docs/reference/wire.md").read_text()
RULES = set(re.findall(r"^- \*\*(W-[A-Z0-9]+)\*\*", CONTRACT, re.MULTILINE))


def named(directory, patterns):
    """The rules that the files of a directory name, and where."""
    found = {}
    for pattern in patterns:
        for path in (ROOT / directory).rglob(pattern):
            if path != Path(__file__):
                for rule in re.findall(r"\bW-[A-Z][A-Z0-9]*\b", path.read_text()):
                    found.setdefault(rule, path)
    return found


def test_every_rule_is_shown():
    assert len(RULES) > 30
    assert sorted(RULES - set(named("tests", ["*.py", "*.txt"]))) == []


def test_every_rule_that_is_named_exists():
    everywhere = {
        **named("tests", ["*.py", "*.txt", "*.js"]),
        **named("rkllm_twisted", ["*.py"]),
        **named("docs", ["*.md"]),
    }
    assert {rule: path for rule, path in everywhere.items() if rule not in RULES} == {}


def test_every_method_of_the_contract_is_in_the_table():
    methods = set(re.findall(r"^\| `((?:rkllm|rpc|server)\.\w+)` \|", CONTRACT, re.MULTILINE)) | {"$/cancelRequest"}
    assert len(methods) == 19
    clock = Clock()
    assert set(Server(ScriptedBackend(clock), clock).factory.table.methods) == methods


def test_every_code_of_the_contract_has_its_class():
    codes = {int(code) for code in re.findall(r"^\| (-32\d{3}) \|", CONTRACT, re.MULTILINE)}
    assert codes == {code for code in BY_CODE if not -32700 <= code <= -32600}

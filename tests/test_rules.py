"""Every rule of the wire contract is shown by a test or a transcript, and none is named that does not exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
RULES = set(re.findall(r"^- \*\*(W-[A-Z0-9]+)\*\*", (ROOT / "docs/reference/wire.md").read_text(), re.MULTILINE))


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

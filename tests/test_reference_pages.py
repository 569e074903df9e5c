"""The pages of reference that are written by hand name what is there."""

import re
from pathlib import Path

import pytest

from rkllm_twisted.tap import Options

ROOT = Path(__file__).parent.parent
FAULTS = (ROOT / "docs/reference/faults.md").read_text()
OPTIONS = (ROOT / "docs/reference/options.md").read_text()
ROWS = [line.split(" | ") for line in FAULTS.splitlines() if re.match(r"\| (?!fault )\w", line)]


def test_every_option_has_its_row():
    options = Options({})
    for name in options.longOpt:
        name = name.rstrip("=")
        if name not in ("help",):
            assert f"`--{name}" in OPTIONS, name


@pytest.mark.parametrize(
    "name", ["max-queue", "line-limit", "init-limit", "prefill-token-limit", "max-crashes", "max-line"]
)
def test_defaults_are_those_of_the_options(name):
    [row] = [line for line in OPTIONS.splitlines() if line.startswith(f"| `--{name} ")]
    assert float(row.split("|")[-2]) == float(Options({})[name])


def test_every_row_of_the_faults_has_five_cells():
    assert len(ROWS) > 60
    assert {len(row) for row in ROWS} == {5}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][2:40])
def test_tests_that_faults_name_exist(row):
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", row[-1])
    assert named
    for path, test in named:
        assert re.search(rf"def {test}\b", (ROOT / path).read_text()), f"{path}::{test}"

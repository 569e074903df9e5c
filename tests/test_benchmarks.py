"""The benchmarks still run and say what they promise. What they measure is not looked at: the machine is busy."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import counting
from benchmarks.__main__ import MEASUREMENTS
from benchmarks.rounds import Rounds, Sample, takeTurns
from benchmarks.rows import Row
from tests.end_to_end.daemon import needsModel
from tests.standins import needsCompiler

CHECKOUT = Path(__file__).parent.parent


def run(*arguments):
    command = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("command", "line", "count"),
    [
        (["tokens", "--rounds", "2", "--tokens", "5"], r"^ +\d( +\d+\.\d){2}( +\d+\.\d{3}){2}$", 2),
        (["tensors", "--quick"], r"^.*(json|base64) +\d+\.\d\d(( +\d+\.\d){2} +\d+\.\d\d){3}$", 4),
    ],
    ids=["tokens", "tensors"],
)
@needsModel
def test_againstLlamaCpp(command, line, count):
    output = run(f"benchmarks.llamacpp.{command[0]}", *command[1:])
    assert len(re.findall(line, output, re.MULTILINE)) == count, output
    if peak := re.search(r"^peak memory: .* daemon/direct (.*)$", output, re.MULTILINE):
        assert float(peak[1]) > 0.7  # else the model was in another process than the one that is measured


@needsCompiler
@pytest.mark.timeout(0)  # a busy machine may take as long as it likes; whoever hangs is found by the load generator
def test_quickRunFillsEveryRow(tmp_path):
    results = tmp_path / "results.json"
    output = run("benchmarks", "--quick", "--json", results)
    written = json.loads(results.read_text())
    assert [each["name"] for each in written["measurements"]] == [each.name for each in MEASUREMENTS]
    rows = [row for each in written["measurements"] for row in each["rows"]]
    assert len(rows) == sum(len(each.rows) for each in MEASUREMENTS)
    assert all(len(row["compared"]) in (1, 2) for row in rows)
    assert len(output.splitlines()) == 2 + len(rows)
    # Two figures that no machine's noise can move.
    figures = {(row["title"], row["side"]): row["median"] for row in rows}
    assert figures["lost tokens", "daemon"] == 0
    assert figures["answered of 100 in one write", "daemon"] == 100


class Named:
    def __init__(self, name):
        self.name = name


def test_sidesTakeTurnsAndTheFirstChanges():
    order = []
    rounds = takeTurns([Named("a"), Named("b")], 3, lambda side: order.append(side.name) or Sample({"x": len(order)}))
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert rounds.values("a", "x") == [1, 4, 5]
    assert rounds.values("b", "x") == [2, 3, 6]


@pytest.mark.parametrize(("goal", "isMost", "isReached"), [
    (2.0, True, True), (1.9, True, False), (2.0, False, True), (2.1, False, False), (None, True, None),
])  # fmt: skip
def test_goalIsHeldAgainstTheMedianOfTheRatios(goal, isMost, isReached):
    pairs = [(2, 1), (30, 10), (1, 100)]
    rounds = Rounds([{"one": Sample({"x": one}), "other": Sample({"x": other})} for one, other in pairs])
    row = Row("", "x", "", "one", "other", goal, isMost)
    assert row.compared(rounds) == [2, 3, 0.01]
    assert row.isReached(rounds) is isReached


def counts(call, token, bare=100):
    daemon = {"daemon call": call, "daemon token": token, "daemon batch": bare}
    return {**daemon, "bare call": bare, "bare token": bare, "bare batch": bare}


@pytest.mark.parametrize(("call", "token", "isWell"), [(104, 200, True), (110, 200, False), (50, 220, False)])
def test_growthOfInstructionsIsSeen(call, token, isWell):
    baseline = {"environment": counting.environment(), "counts": counts(100, 200)}
    assert counting.compare(counts(call, token), baseline) is isWell


@pytest.mark.parametrize(("call", "isWell"), [(208, True), (220, False)])
def test_withOtherPackagesTheRatiosToBareAreCompared(call, isWell):
    baseline = {"environment": {"python": "another"}, "counts": counts(100, 200)}
    assert counting.compare(counts(call, 400, bare=200), baseline) is isWell
    assert baseline["environment"] != counting.environment()


def test_baselineIsWellFormed():
    baseline = json.loads(counting.BASELINE.read_text())
    assert baseline["environment"].keys() == counting.environment().keys()
    assert baseline["counts"].keys() == counts(1, 1).keys()
    assert all(count > 1000 for count in baseline["counts"].values())

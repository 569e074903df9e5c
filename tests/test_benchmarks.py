"""The benchmarks that reach into the CPU backend still run. What they measure is not looked at: the machine is busy."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.daemon import needsModel

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@needsModel
@pytest.mark.parametrize(
    ("command", "line", "count"),
    [
        (["cost_of_the_daemon.py", "--rounds", "2", "--tokens", "5"], r"^ +\d( +\d+\.\d){2}( +\d+\.\d{3}){2}$", 2),
        (
            ["cost_of_tensors.py", "--quick"],
            r"^.*(json|base64) +\d+\.\d\d(( +\d+\.\d){2} +\d+\.\d\d){3}$",
            4,
        ),
    ],
    ids=["cost of the daemon", "cost of tensors"],
)
def test_itRuns(command, line, count):
    script, *arguments = command
    done = subprocess.run([sys.executable, str(BENCHMARKS / script), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(line, done.stdout, re.MULTILINE)) == count, done.stdout

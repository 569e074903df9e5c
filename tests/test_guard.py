"""The guard of conftest.py, watched over: each thing that it should turn red."""

import subprocess
import sys
from pathlib import Path

import pytest

CASES = {
    "unhandled failure": "from twisted.internet.defer import fail\n    fail(ValueError())",
    "logged failure": "from twisted.python import log\n    log.err(ValueError())",
    "logged critical": "from twisted.logger import Logger\n    Logger().critical('x')",
    "call left waiting": "from twisted.internet import reactor\n    reactor.callLater(1000, print)",
}


@pytest.mark.parametrize("case", CASES)
def test_guard_turns_red(case, tmp_path):
    conftest = Path(__file__).with_name("conftest.py").read_text()
    tmp_path.joinpath("conftest.py").write_text(conftest)
    tmp_path.joinpath("test_case.py").write_text(f"def test_case():\n    {CASES[case]}\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--reactor=default", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert "1 error" in done.stdout, done.stdout

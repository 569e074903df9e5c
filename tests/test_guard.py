"""The guard against silent failures, watched over: each thing that it should turn red."""

import subprocess
import sys

import pytest

CASES = {
    "unhandled failure": "from twisted.internet.defer import fail\n    fail(ValueError())",
    "logged failure": "from twisted.python import log\n    log.err(ValueError())",
    "logged critical": "from twisted.logger import Logger\n    Logger().critical('x')",
    "call left waiting": "from twisted.internet import reactor\n    reactor.callLater(1000, print)",
}


@pytest.mark.parametrize("case", CASES)
def test_guard_turns_red(case, tmp_path):
    tmp_path.joinpath("conftest.py").write_text('pytest_plugins = ["rkllm_twisted.testing.guard"]\n')
    tmp_path.joinpath("test_case.py").write_text(f"def test_case():\n    {CASES[case]}\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--reactor=default", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert "1 error" in done.stdout, done.stdout

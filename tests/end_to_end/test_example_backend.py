"""The tests that examples/backend_echo brings, as its author would run them."""

import os
import subprocess
import sys
from pathlib import Path

ECHO = Path(__file__).parents[2] / "examples/backend_echo"


def test_its_own_tests(tmp_path):
    command = [sys.executable, "-m", "pytest", "--reactor=default", "-c", "/dev/null", f"--rootdir={ECHO}"]
    environ = {**os.environ, "PYTHONPATH": str(ECHO), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", str(ECHO / "tests")],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout

"""The types that the package promises (py.typed), as mypy sees them from outside."""

import subprocess
import sys
from pathlib import Path

import pytest


def test_calls(tmp_path):
    pytest.importorskip("mypy", reason="the extra check is not installed")
    (tmp_path / "mypy.ini").write_text("[mypy]\nplugins = mypy_zope:plugin\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(tmp_path / "mypy.ini")]
    calls = Path(__file__).with_name("calls.py")
    done = subprocess.run(
        [*command, "--cache-dir", str(tmp_path / "cache"), str(calls)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr

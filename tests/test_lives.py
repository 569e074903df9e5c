"""docs/explanation/lives.md and its pictures are what the code does: else `make reference`."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMMITTED = {path.name: path.read_text() for path in (ROOT / "docs/explanation").glob("lives*")}


def written(directory, depth):
    """What the script writes; in a process of its own, since what it tries out fails and is logged on purpose."""
    command = [sys.executable, "-m", "scripts.lives", str(depth), str(directory)]
    subprocess.run(command, check=True, cwd=ROOT)
    return {path.name: path.read_text() for path in directory.iterdir()}


def test_what_the_script_writes_is_committed(tmp_path):
    assert len(COMMITTED) == 3
    assert written(tmp_path, 8) == COMMITTED


def test_nothing_is_left_out_for_want_of_depth(tmp_path):
    assert written(tmp_path, 10) == COMMITTED


def test_too_little_depth_is_seen(tmp_path):
    assert written(tmp_path, 2) != COMMITTED

"""Files on their way to their place, and writers that do not arrive."""

import os
import stat
import subprocess
import sys

import pytest

from rkllm_twisted.backends.unfinished import PREFIX, Unfinished, sweep

WRITER = """
import os, signal, sys
from rkllm_twisted.backends.unfinished import Unfinished
unfinished = Unfinished(sys.argv[1])
with open(unfinished.path, "w") as file:
    file.write("half of it")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_file_is_moved_and_nothing_is_left(tmp_path):
    unfinished = Unfinished(str(tmp_path))
    assert stat.S_IMODE(os.stat(os.path.dirname(unfinished.path)).st_mode) == 0o700
    with open(unfinished.path, "w") as file:
        file.write("all of it")
    os.replace(unfinished.path, tmp_path / "place")
    unfinished.close()
    assert os.listdir(tmp_path) == ["place"]


def test_file_that_is_not_moved_is_removed(tmp_path):
    unfinished = Unfinished(str(tmp_path))
    with open(unfinished.path, "w") as file:
        file.write("half of it")
    unfinished.close()
    assert os.listdir(tmp_path) == []


def test_next_writer_removes_what_a_killed_one_has_left(tmp_path):
    for _ in range(2):
        subprocess.run([sys.executable, "-c", WRITER, str(tmp_path)], check=False, timeout=60)
        assert len(os.listdir(tmp_path)) == 1
    Unfinished(str(tmp_path)).close()
    assert os.listdir(tmp_path) == []


def test_what_somebody_writes_stays(tmp_path):
    others = [Unfinished(str(tmp_path)) for _ in range(3)]
    assert len(os.listdir(tmp_path)) == 3
    for other in others:
        other.close()


def test_what_is_of_another_kind_stays(tmp_path):
    """Nothing is removed but a directory with nothing in it but such a file."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "saved").write_text("precious")
    (tmp_path / f"{PREFIX}link").symlink_to("elsewhere")
    (tmp_path / f"{PREFIX}file").write_text("precious")
    os.mkfifo(tmp_path / f"{PREFIX}pipe")
    (tmp_path / f"{PREFIX}more").mkdir()
    (tmp_path / f"{PREFIX}more" / "other").write_text("precious")
    before = sorted(os.listdir(tmp_path))
    sweep(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == before
    assert (tmp_path / "elsewhere" / "saved").read_text() == "precious"
    assert (tmp_path / f"{PREFIX}more" / "other").read_text() == "precious"


def test_directory_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        Unfinished(str(tmp_path / "nowhere"))

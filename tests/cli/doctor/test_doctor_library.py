"""Whether a library can be told, and opened."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest

from rkllm_twisted.backends.rkllm.detection import Finding as Detected
from rkllm_twisted.cli.doctor import library
from rkllm_twisted.cli.doctor.findings import State


def test_aLibraryThatCannotBeTold() -> None:
    found = library.family("/l.so", lambda path: Detected(path, None, None, [], "it is not an ELF file"))
    assert (found.state, found.found) == (State.PROBLEM, "/l.so: it is not an ELF file")
    assert found.todo.endswith("rkllm detect /l.so")


def test_aLibraryThatOpens() -> None:
    path = subprocess.run(
        [sys.executable, "-c", "import _ctypes; print(_ctypes.__file__)"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert library.opens(path).state is State.OK


def test_aLibraryForAnotherCPU(tmp_path: Path) -> None:
    path = tmp_path / "l.so"
    sparc = 43
    path.write_bytes(b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HHI", 3, sparc, 1).ljust(48, b"\0"))
    found = library.opens(str(path))
    assert (found.state, found.found) == (State.PROBLEM, "it is for another kind of CPU")


def test_aLibraryThatIsCutOff(tmp_path: Path) -> None:
    path = tmp_path / "l.so"
    path.write_bytes(Path(sys.executable).read_bytes()[:64])
    found = library.opens(str(path))
    assert found.state is State.PROBLEM
    assert str(path) in found.found


class Ended:
    """A child process that has ended."""

    def __init__(self, returncode: int, stderr: str = "") -> None:
        self.returncode = returncode
        self.stderr = stderr


@pytest.mark.parametrize(
    ("child", "found", "todo"),
    [
        (Ended(-4), "opening it ended the process by signal 4 (Illegal instruction)", ""),
        (Ended(3), "it ended the process", ""),
        (
            Ended(1, "Traceback\nOSError: libgomp.so.1: cannot open shared object file: No such file or directory\n"),
            "libgomp.so.1: cannot open shared object file: No such file or directory",
            "install the package that has libgomp.so.1",
        ),
        (
            Ended(1, "OSError: /lib/libc.so.6: version `GLIBC_2.29' not found (required by /l.so)\n"),
            "/lib/libc.so.6: version `GLIBC_2.29' not found (required by /l.so)",
            "newer C library",
        ),
    ],
)
def test_whatKeepsALibraryClosed(child: Ended, found: str, todo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library.subprocess, "run", lambda *arguments, **options: child)
    closed = library.opens(sys.executable)
    assert (closed.state, closed.found, todo in closed.todo) == (State.PROBLEM, found, True)


def test_aLibraryThatHasGone() -> None:
    assert library.opens("/nowhere.so").found == "it could not be tried: No such file or directory: /nowhere.so"


def test_aLibraryThatHangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "OPEN", "import threading; threading.Event().wait()")
    assert library.opens(sys.executable, patience=0.1).found == "opening it did not end within 0 s"

"""What a library file says of itself, whatever machine it is for and however damaged it is."""

import platform
import struct
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from rkllm_twisted.backends.rkllm.detection import detect
from rkllm_twisted.backends.rkllm.elf import NotALibrary, machineOf, readSharedObject, thisMachine
from tests.backends.rkllm.exports import FROM_1_2_1
from tests.standins import needsCompiler, standin

pytestmark = needsCompiler


def test_damaged_files(compileLibrary):
    """Cut off, or with any byte of its header wrong: a problem or a finding, never an exception."""
    path = compileLibrary(FROM_1_2_1, "1.3.0")
    whole = Path(path).read_bytes()
    with pytest.raises(NotALibrary, match="points beyond its end"):
        readSharedObject(whole[:-200])
    for at in range(64):
        for value in (0, 1, 0x7F, 0xFF):
            data = whole[:at] + bytes([value]) + whole[at + 1 :]
            with suppress(NotALibrary):
                readSharedObject(data)


def test_library_for_another_machine(compileLibrary):
    """It can be looked at, and is not opened."""
    path = compileLibrary(FROM_1_2_1, "1.3.0")
    data = bytearray(Path(path).read_bytes())
    data[18:20] = struct.pack("<H", 243)
    Path(path).write_bytes(data)
    finding = detect(path)
    assert (finding.family, finding.machine) == ("1.3", "riscv64")
    assert [each.source for each in finding.evidence] == ["hash", "text", "symbols"]
    assert readSharedObject(bytes(data)).machine == "riscv64"


@pytest.mark.parametrize(
    ("head", "machine"),
    [
        (b"\x7fELF\x01\x01".ljust(18, b"\0") + b"\x28\0", "arm"),
        (b"\x7fELF\x02\x01".ljust(18, b"\0") + b"\xb7\0", "aarch64"),
        (b"\x7fELF\x02\x01".ljust(18, b"\0") + b"\x3e\0", "x86_64"),
        (b"\x7fELF\x02\x02".ljust(18, b"\0") + b"\0\x2b", "machine 43"),
        (b"\x7fELF\x02\x01".ljust(18, b"\0"), None),
        (b"hello, this is not a library", None),
    ],
)
def test_machine_of_a_file_that_cannot_be_used(head, machine, tmp_path):
    """It is said all the same: a library for 32-bit ARM is what one takes for an older board by mistake."""
    (tmp_path / "l.so").write_bytes(head)
    finding = detect(str(tmp_path / "l.so"))
    assert (finding.family, finding.machine) == (None, machine)


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [(4, 1, "32-bit"), (5, 2, "big-endian"), (16, 2, "not a shared library")],
)
def test_library_of_another_kind(at, value, said, compileLibrary):
    path = compileLibrary(FROM_1_2_1, "1.3.0")
    data = bytearray(Path(path).read_bytes())
    data[at] = value
    with pytest.raises(NotALibrary, match=said):
        readSharedObject(bytes(data))


@pytest.mark.parametrize("program", [None, "", "/nowhere/python", "script"])
def test_interpreter_that_is_started_by_something_else(program, tmp_path, monkeypatch):
    """A wrapper, or a program that Python is embedded in: libraries for this machine must not be refused then."""
    (tmp_path / "script").write_text('#!/bin/sh\nexec python3 "$@"\n')
    expected = machineOf(sys.executable)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", program)
    assert thisMachine.__wrapped__() == expected


def test_this_machine_is_known():
    assert readSharedObject(Path(standin("1.3")).read_bytes()).machine == platform.machine()

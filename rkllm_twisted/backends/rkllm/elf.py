"""What a shared object says of itself: its machine and the functions it exports, read without opening it.

Read from the file, so that a library for another machine can be looked at too, and so that none of its code runs.
Layout: the ELF specification of the System V ABI, chapter 4; ``man 5 elf``.
"""

from __future__ import annotations

import os
import platform
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

MACHINES = {183: "aarch64", 62: "x86_64", 40: "arm", 3: "i386", 243: "riscv64"}
"""EM_AARCH64 and others, under the names of ``uname -m``."""

_MAGIC = b"\x7fELF"
_HEAD = 20
"""Bytes of a file that tell its machine."""
_CLASS_64, _LITTLE, _SHARED = 2, 1, 3  # ELFCLASS64, ELFDATA2LSB, ET_DYN
_SECTION = struct.Struct("<IIQQQQIIQQ")  # Elf64_Shdr: name, type, flags, addr, offset, size, link, info, align, entsize
_SYMBOL = struct.Struct("<IBBHQQ")  # Elf64_Sym: name, info, other, shndx, value, size
_DYNAMIC_SYMBOLS = 11  # SHT_DYNSYM


class NotALibrary(ValueError):
    """The file cannot be a ``librkllmrt.so`` for a 64-bit machine. The message says why."""


@dataclass(frozen=True)
class SharedObject:
    """What was read.

    Attributes:
        machine: Whom it is for, as ``uname -m`` says it.
        exports: The names that it defines for others.
    """

    machine: str
    exports: frozenset[str]

    @property
    def fitsThisMachine(self) -> bool:
        """Whether this interpreter can open it."""
        return self.machine == thisMachine()


@cache
def thisMachine() -> str:
    """Whom this interpreter is for. Under a kernel for 64 bits, which ``uname -m`` speaks of, it may be for 32."""
    # What starts it may be a script, or unknown where it is embedded. An emulated process has the emulator's /proc.
    for program in (sys.executable, "/proc/self/exe"):
        with suppress(OSError), open(program or os.devnull, "rb") as file:
            if (machine := machineIn(file.read(_HEAD))) is not None:
                return machine
    return platform.machine()


def machineOf(path: str) -> str:
    """Whom a program or a shared object is for.

    Raises:
        OSError: It cannot be read.
    """
    with open(path, "rb") as file:
        return machineIn(file.read(_HEAD)) or "another machine"


def machineIn(data: bytes) -> str | None:
    """Whom a program or a shared object is for, by its first bytes; None if it is neither. Also of 32-bit ones."""
    if not data.startswith(_MAGIC) or len(data) < _HEAD:
        return None
    return _named(int.from_bytes(data[18:20], "little" if data[5] == _LITTLE else "big"))


def _named(machine: int) -> str:
    return MACHINES.get(machine, f"machine {machine}")


def readSharedObject(data: bytes) -> SharedObject:
    """Read the contents of a file.

    Raises:
        NotALibrary: It is not a shared object for a 64-bit little-endian machine, or it is damaged.
    """
    if data[:4] != _MAGIC:
        raise NotALibrary("not an ELF file")
    try:
        if data[4] != _CLASS_64:
            raise NotALibrary("a library for a 32-bit machine; only 64-bit ones can be used")
        if data[5] != _LITTLE:
            raise NotALibrary("a library for a big-endian machine")
        kind, machine = struct.unpack_from("<HH", data, 16)
        if kind != _SHARED:
            raise NotALibrary("an ELF file, but not a shared library")
        return SharedObject(_named(machine), frozenset(_exports(data)))
    except (struct.error, IndexError, ValueError, OverflowError) as error:
        if isinstance(error, NotALibrary):
            raise
        raise NotALibrary("a damaged ELF file: it points beyond its end") from None


def _exports(data: bytes) -> list[str]:
    sections = _sections(data)
    tables = [section for section in sections if section[0] == _DYNAMIC_SYMBOLS]  # a file has one at most
    return [name for _, offset, size, link in tables[:1] for name in _defined(data, offset, size, sections[link])]


def _defined(data: bytes, offset: int, size: int, stringTable: tuple[int, int, int, int]) -> Iterator[str]:
    _, start, length, _ = stringTable
    strings = data[start : start + length]
    for at in range(offset, offset + size, _SYMBOL.size):
        name, _, _, section, _, _ = _SYMBOL.unpack_from(data, at)
        if section:  # 0, SHN_UNDEF, is what it takes from others
            yield strings[name : strings.index(b"\0", name)].decode("ascii", "replace")


def _sections(data: bytes) -> list[tuple[int, int, int, int]]:
    """The type, offset, size and link of each section."""
    (table,) = struct.unpack_from("<Q", data, 40)
    entrySize, count = struct.unpack_from("<HH", data, 58)
    found = []
    for index in range(count):
        _, kind, _, _, offset, size, link, _, _, _ = _SECTION.unpack_from(data, table + index * entrySize)
        found.append((kind, offset, size, link))
    return found

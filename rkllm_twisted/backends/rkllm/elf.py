"""What a shared object says of itself: its machine and the functions it exports, read without opening it.

Read from the file, so that a library for another machine can be looked at too, and so that none of its code runs.
Layout: the ELF specification of the System V ABI, chapter 4; ``man 5 elf``.
"""

from __future__ import annotations

import platform
import struct
from collections.abc import Iterator
from dataclasses import dataclass

MACHINES = {183: "aarch64", 62: "x86_64", 40: "arm", 3: "i386", 243: "riscv64"}
"""EM_AARCH64 and others, under the names of ``uname -m``."""

_PROGRAM = "/proc/self/exe"
_MAGIC = b"\x7fELF"
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
        machine: Whom it is for, one of `MACHINES` or its number.
        exports: The names that it defines for others.
    """

    machine: str
    exports: frozenset[str]

    @property
    def fitsThisMachine(self) -> bool:
        """Whether this process can open it."""
        return self.machine == thisMachine()


def thisMachine() -> str:
    """The machine that this Python is for.

    Read from its own file: the kernel's answer to ``uname -m`` is another for a 32-bit Python on a 64-bit kernel, and
    under ``setarch``.
    """
    try:
        return _machineOf(_PROGRAM)
    except OSError:  # no /proc here
        return platform.machine()


def foreignMachine(path: str) -> str | None:
    """The machine that an ELF file is for, if this Python is for another.

    Raises:
        OSError: It cannot be read.
    """
    machine = _machineOf(path)
    return None if machine == thisMachine() else machine


def _machineOf(path: str) -> str:
    with open(path, "rb") as file:
        return _named(int.from_bytes(file.read(20)[18:], "little"))


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

"""What /proc, /sys and /dev say of a machine."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct

CHIPS = ("RK3588", "RK3576", "RK3562", "RV1126B")
"""What RKLLM runs on; the first since release 1.0, the last since 1.2.1 (the vendor's changelog)."""
Version = tuple[int, ...]


def canOpen(path: str) -> bool:
    """Whether this process may open a device node for reading and writing."""
    return os.access(path, os.R_OK | os.W_OK)


def modeAndGroup(path: str) -> tuple[int, int]:
    """The mode of a device node and the number of its group.

    Raises:
        OSError: It is not there any more.
    """
    seen = os.stat(path)
    return seen.st_mode, seen.st_gid


class Machine(Struct, frozen=True):
    """A machine, seen through the directories in which Linux describes it."""

    proc: str = "/proc"
    sys: str = "/sys"
    dev: str = "/dev"
    environ: Mapping[str, str] = os.environ
    canOpen: Callable[[str], bool] = canOpen
    modeAndGroup: Callable[[str], tuple[int, int]] = modeAndGroup

    def compatible(self) -> list[str]:
        """The board's and the chip's names in the device tree, the most particular first; none without a tree."""
        return [name for name in _text(f"{self.proc}/device-tree/compatible").split("\0") if name]

    def chip(self) -> str | None:
        """Which of `CHIPS` this is; an RK3588S counts as RK3588, as it does for the vendor."""
        names = [name.partition(",")[2].upper() for name in self.compatible()]
        return next((chip for name in names for chip in CHIPS if name in (chip, f"{chip}S")), None)

    def driverVersion(self) -> Version | None:
        """The version of the vendor's NPU driver; None if it is not loaded or not shown to this user."""
        # The module's own file first, which anybody may read; the debug file system is for root.
        for path in (f"{self.sys}/module/rknpu/version", f"{self.sys}/kernel/debug/rknpu/version"):
            if digits := re.search(r"\d+(\.\d+)+", _text(path)):
                return tuple(int(number) for number in digits[0].split("."))
        return None

    def hasModule(self, name: str) -> bool:
        """Whether the kernel has a module, loaded or built in."""
        return os.path.isdir(f"{self.sys}/module/{name}")

    def drmNodes(self) -> list[str]:
        """The names of the NPU's nodes in /dev/dri, whether they are there or not.

        The driver stands in the ``uevent`` of a node's device (airockchip/rknn-toolkit2 issue 534); which numbers it
        gets depends on what else the machine has.
        """
        names = sorted(_names(f"{self.sys}/class/drm"))
        nodes = [name for name in names if re.fullmatch(r"(card|renderD)\d+", name)]
        return [name for name in nodes if re.search("^DRIVER=rknpu$", self._uevent(name), re.MULTILINE | re.IGNORECASE)]

    def _uevent(self, node: str) -> str:
        return _text(f"{self.sys}/class/drm/{node}/device/uevent")

    def isBoard(self) -> bool:
        """Whether anything shows that there is an NPU: the chip, the driver, or the driver's nodes."""
        return bool(self.chip() or self.hasModule("rknpu") or self.drmNodes())

    def cpus(self) -> set[int]:
        """The numbers of the CPUs that are online and that this process may use; empty if /proc does not tell."""
        online, allowed = _text(f"{self.sys}/devices/system/cpu/online"), self._status("Cpus_allowed_list")
        both = [set(_numbers(text)) for text in (online, allowed) if text.strip()]
        return set.intersection(*both) if both else set()

    def freeMemory(self) -> int | None:
        """Bytes that can be had without swapping, at most what the control group allows; None if unknown."""
        free = re.search(r"^MemAvailable:\s*(\d+) kB", _text(f"{self.proc}/meminfo"), re.MULTILINE)
        limit = _text(f"{self.sys}/fs/cgroup/memory.max").strip()
        amounts = [int(free[1]) * 1024] if free else []
        return min(amounts + ([int(limit)] if limit.isdecimal() else []), default=None)

    def mostFiles(self) -> int | None:
        """How many files this process may have open; None if it is not limited or unknown."""
        limit = re.search(r"^Max open files\s+(\d+)", _text(f"{self.proc}/self/limits"), re.MULTILINE)
        return int(limit[1]) if limit else None

    def _status(self, field: str) -> str:
        line = re.search(rf"^{field}:\s*(.*)$", _text(f"{self.proc}/self/status"), re.MULTILINE)
        return line[1] if line else ""


def _text(path: str) -> str:
    """A small file; empty where there is none or it cannot be read."""
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _numbers(text: str) -> Iterable[int]:
    """``0-3,6`` as numbers."""
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        yield from range(int(first), int(last or first) + 1)

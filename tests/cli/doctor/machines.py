"""Whole machines for the doctor, laid out in a directory as Linux describes them in /proc, /sys and /dev."""

from __future__ import annotations

import os
from pathlib import Path

from rkllm_twisted.cli.doctor.machine import Machine

ROCK_5B = "radxa,rock-5b\0rockchip,rk3588\0"
LIMITS = "Limit                     Soft Limit           Hard Limit           Units     \n"


class MadeUp:
    """A machine to be furnished; `look` gives what the doctor sees.

    Args:
        root: An empty directory.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._closed: dict[str, tuple[int, int]] = {}
        self.environ: dict[str, str] = {}
        for name in ("proc", "sys", "dev"):
            (root / name).mkdir()

    def write(self, path: str, content: str = "") -> MadeUp:
        """A file, such as ``proc/meminfo``."""
        file = self._root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        return self

    def remove(self, path: str) -> MadeUp:
        (self._root / path).unlink()
        return self

    def link(self, path: str, target: str) -> MadeUp:
        os.symlink(target, self._root / path)
        return self

    def close(self, path: str, mode: int, gid: int) -> MadeUp:
        """A device node that this user may not open."""
        self._closed[self.path(path)] = mode, gid
        return self

    def path(self, path: str) -> str:
        return str(self._root / path)

    def look(self) -> Machine:
        proc, sys, dev = (str(self._root / name) for name in ("proc", "sys", "dev"))
        return Machine(proc, sys, dev, self.environ, lambda path: path not in self._closed, self._closed.__getitem__)


def pc(root: Path) -> MadeUp:
    """A PC with eight CPUs, 16 GB and a graphics card."""
    machine = MadeUp(root)
    machine.write("proc/meminfo", "MemTotal:       32000000 kB\nMemAvailable:   16000000 kB\n")
    machine.write("proc/self/status", "Name:\trkllm\nCpus_allowed:\tff\nCpus_allowed_list:\t0-7\n")
    machine.write(
        "proc/self/limits", f"{LIMITS}Max open files            1024                 1048576              files\n"
    )
    machine.write("sys/devices/system/cpu/online", "0-7\n")
    for node in ("card0", "renderD128"):
        machine.write(f"sys/class/drm/{node}/device/uevent", "DRIVER=i915\nPCI_CLASS=30000\n")
        machine.write(f"dev/dri/{node}")
    return machine


def rk3588(root: Path) -> MadeUp:
    """A healthy Rock 5B: the vendor's kernel, the driver 0.9.8, its nodes beside those of the display."""
    machine = pc(root)
    for node in ("card0", "renderD128"):
        machine.write(f"sys/class/drm/{node}/device/uevent", "DRIVER=rockchip-drm\n")
    for node in ("card1", "renderD129"):
        machine.write(f"sys/class/drm/{node}/device/uevent", "DRIVER=RKNPU\nOF_COMPATIBLE_0=rockchip,rk3588-rknpu\n")
        machine.write(f"dev/dri/{node}")
    machine.write("sys/class/drm/card0-HDMI-A-1/device/uevent", "DRIVER=RKNPU\n")  # a connector, not a node
    machine.write("proc/device-tree/compatible", ROCK_5B)
    machine.write("sys/module/rknpu/version", "0.9.8\n")
    return machine


def oldDriver(root: Path) -> MadeUp:
    """The same with a driver from 2022, which shows its version in the debug file system only."""
    machine = rk3588(root).remove("sys/module/rknpu/version")
    return machine.write("sys/kernel/debug/rknpu/version", "RKNPU driver: v0.8.2\n")


def container(root: Path) -> MadeUp:
    """A container on the same board: the driver is the kernel's, /proc/device-tree and /dev/dri are hidden."""
    machine = rk3588(root).remove("proc/device-tree/compatible")
    for node in ("card0", "card1", "renderD128", "renderD129"):
        machine.remove(f"dev/dri/{node}")
    return machine.write("sys/fs/cgroup/memory.max", f"{2**31}\n")


def mainline(root: Path) -> MadeUp:
    """A board with mainline's kernel and its driver for the NPU."""
    machine = pc(root).write("proc/device-tree/compatible", ROCK_5B)
    return machine.write("sys/module/rocket/refcnt", "0\n").write("dev/accel/accel0")

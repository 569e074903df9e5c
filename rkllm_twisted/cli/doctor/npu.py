"""Checks of the chip, its driver, its device nodes, and the CPUs that feed it."""

from __future__ import annotations

import os
from grp import getgrgid

from rkllm_twisted.backends.rkllm.cpus import COUNT, NAMED
from rkllm_twisted.cli.doctor.findings import Finding, State
from rkllm_twisted.cli.doctor.machine import CHIPS, Machine, Version

WANTED: Version = (0, 9, 8)
"""The driver that the manual asks for (1.3.0, section 2.4)."""
THRESHOLD: Version = (0, 9, 7)
"""Below this the library itself warns (text in 1.2.1b1), and goes on."""
BIG_CPUS = {4, 5, 6, 7}
"""Of RK3588 and RK3576: the mask of the vendor's servers there. Which are taken changes the speed of prefill about five
times (measured by dmmdea/offload-harness on an RK3588S with 1.3.1)."""
LEAST_ON_RK3588 = 3
"""As many as NPU cores; fewer are refused (the same, measured)."""
UPDATE = "boot a kernel with the vendor's rknpu driver 0.9.8 (5.10 or 6.1, or built for yours): docs/howto/board.md"


def chip(machine: Machine) -> Finding:
    """Whether this is one of the chips that RKLLM supports, and whether the runtime can see that."""
    names = machine.compatible()
    if (found := machine.chip()) is not None:
        return Finding("chip", State.OK, f"{found} ({names[0]})")
    if names:
        return Finding("chip", State.ABSENT, f"no NPU for RKLLM: this is {names[-1]}, it runs on {', '.join(CHIPS)}")
    if machine.isBoard():
        # airockchip/rknn-llm issue 334; airockchip/rknn-toolkit2 issue 33.
        return Finding(
            "chip",
            State.PROBLEM,
            "an NPU driver, but no /proc/device-tree, by which the runtime knows the chip: a container hides it",
            "start the container with --security-opt systempaths=unconfined, or privileged",
        )
    return Finding("chip", State.ABSENT, "no NPU for RKLLM: a machine without a device tree is no Rockchip board")


def driver(machine: Machine) -> Finding:
    """Whether the vendor's NPU driver is loaded, and new enough."""
    if (version := machine.driverVersion()) is not None:
        return _judged(version)
    if machine.hasModule("rocket"):
        return Finding("driver", State.PROBLEM, "mainline's driver rocket, which RKLLM cannot use", UPDATE)
    if machine.hasModule("rknpu") or machine.drmNodes():
        return Finding(
            "driver",
            State.WARNING,
            "rknpu is there, but its version is not shown to this user; 0.9.8 is wanted",
            "look yourself, outside of a container: sudo cat /sys/kernel/debug/rknpu/version",
        )
    if machine.isBoard():
        return Finding("driver", State.PROBLEM, "no NPU driver is loaded", UPDATE)
    return Finding("driver", State.ABSENT, "no NPU driver")


def _judged(version: Version) -> Finding:
    said = ".".join(map(str, version))
    if version >= WANTED:
        return Finding("driver", State.OK, f"rknpu {said}")
    if version >= THRESHOLD:
        return Finding("driver", State.WARNING, f"rknpu {said}; the vendor asks for 0.9.8", UPDATE)
    # airockchip/rknn-llm issues 413 and 498.
    return Finding(
        "driver",
        State.PROBLEM,
        f"rknpu {said} is too old: the library only warns, and then answers garbage, such as !!!!, or fails",
        UPDATE,
    )


def nodes(machine: Machine) -> Finding:
    """Whether the NPU's device nodes are there, and this user may open them."""
    paths = [f"{machine.dev}/dri/{name}" for name in machine.drmNodes()]
    single = f"{machine.dev}/rknpu"
    if os.path.islink(single):
        return _linked(single)
    if os.path.exists(single):  # a driver that was built without DRM
        paths.append(single)
    if not paths:
        return _noNodes(machine)
    if not (there := [path for path in paths if os.path.exists(path)]):
        return Finding(
            "device nodes",
            State.PROBLEM,
            f"the driver has {_listed(paths)}, but not in this {machine.dev}: a container hides it",
            "start the container with --device /dev/dri",
        )
    return _opened(machine, there)


def _linked(path: str) -> Finding:
    # invisiofficial/rk-llama.cpp issue 19; airockchip/rknn-toolkit2 issue 534.
    return Finding(
        "device nodes",
        State.WARNING,
        f"{path} is a link to {os.readlink(path)}; a library of the vendor that finds it there fails",
        f"remove it: sudo rm {path}",
    )


def _noNodes(machine: Machine) -> Finding:
    if not machine.isBoard():
        return Finding("device nodes", State.ABSENT, "none of an NPU")
    return Finding(
        "device nodes",
        State.PROBLEM,
        f"none: no DRM device in {machine.sys}/class/drm has the driver RKNPU, and there is no {machine.dev}/rknpu",
        "see the driver; in a container, let it see /sys and /dev/dri",
    )


def _opened(machine: Machine, there: list[str]) -> Finding:
    closed = [path for path in there if not machine.canOpen(path)]
    if not closed:
        return Finding("device nodes", State.OK, f"{_listed(there)}, may be opened")
    # Which of the two DRM nodes the library opens is not documented; users speak of the one group, or of both.
    state = State.PROBLEM if closed == there else State.WARNING
    todo = "; ".join(dict.fromkeys(_admission(path, *machine.modeAndGroup(path)) for path in closed))
    return Finding("device nodes", state, f"{_listed(closed)} may not be opened by this user", todo)


def _admission(path: str, mode: int, group: int) -> str:
    """How to be let in; the driver's message in this case, "need to insmod rknpu", leads astray."""
    if mode & 0o060 == 0o060 and group != 0:
        return f"sudo usermod -aG {_group(group)} $USER, and log in again"
    return f"sudo chgrp render {path} && sudo chmod 660 {path} (for good: a udev rule), or run the daemon as root"


def _group(gid: int) -> str:
    try:
        return getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _listed(paths: list[str]) -> str:
    return " and ".join(paths)


def cpus(machine: Machine) -> Finding:
    """Whether the CPUs that the backend takes by default, the last ones that it may use, are those that it should."""
    usable, isRK3588 = machine.cpus(), machine.chip() == "RK3588"
    if not machine.isBoard():
        return Finding("cpu mask", State.ABSENT, "matters only to the NPU's runtime")
    if not usable:
        return Finding("cpu mask", State.WARNING, "cannot tell which CPUs may be used")
    taken = set(sorted(usable & set(range(NAMED)))[-COUNT:])
    said = f"CPUs {_ranges(taken)} by default, of {_ranges(usable)}"
    more = "let the daemon use more CPUs: its cgroup or container, taskset, CPUAffinity= in a systemd unit"
    if isRK3588 and len(taken) < LEAST_ON_RK3588:
        return Finding("cpu mask", State.PROBLEM, f"{said}; on an RK3588 no model loads with less than three", more)
    if (isRK3588 or machine.chip() == "RK3576") and taken - BIG_CPUS:
        slow = f"{said}; the big ones are {_ranges(BIG_CPUS)}, and prompts are read up to five times slower without"
        return Finding("cpu mask", State.WARNING, slow, more)
    return Finding("cpu mask", State.OK, said)


def _ranges(numbers: set[int]) -> str:
    """Numbers as ``0-3,6``."""
    ends = [number for number in sorted(numbers) if number + 1 not in numbers]
    starts = [number for number in sorted(numbers) if number - 1 not in numbers]
    return ",".join(f"{a}-{b}" if a != b else str(a) for a, b in zip(starts, ends, strict=True))

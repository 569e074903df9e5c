"""The chip, its driver, its device nodes, and the CPUs that feed it."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from rkllm_twisted.cli.doctor import npu
from rkllm_twisted.cli.doctor.findings import Finding, State
from rkllm_twisted.cli.doctor.telling import whyNot
from tests.cli.doctor import machines
from tests.cli.doctor.examining import examined, finding
from tests.cli.doctor.machines import MadeUp


@pytest.mark.parametrize(
    ("compatible", "chip"),
    [
        ("radxa,rock-5b\0rockchip,rk3588\0", "RK3588"),
        ("radxa,rock-5c\0rockchip,rk3588s\0", "RK3588"),
        ("armsom,sige5\0rockchip,rk3576\0", "RK3576"),
        ("rockchip,rk3562-evb1\0rockchip,rk3562\0", "RK3562"),
        ("rockchip,rv1126b-evb\0rockchip,rv1126b\0", "RV1126B"),
        ("rockchip,rv1126-evb\0rockchip,rv1126\0", None),
        ("rockchip,rk3568\0", None),
        ("raspberrypi,5-model-b\0brcm,bcm2712\0", None),
    ],
)
def test_chips(root: Path, compatible: str, chip: str | None) -> None:
    machine = MadeUp(root).write("proc/device-tree/compatible", compatible).look()
    assert machine.chip() == chip
    assert npu.chip(machine).state is (State.OK if chip else State.ABSENT)


def test_anotherChipIsNamed(root: Path) -> None:
    machine = MadeUp(root).write("proc/device-tree/compatible", "raspberrypi,5-model-b\0brcm,bcm2712\0").look()
    assert "this is brcm,bcm2712" in npu.chip(machine).found


# The driver


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ("0.9.6", "problem"),
        ("0.9.7", "warning"),
        ("0.9.8", "ok"),
        ("0.9.10", "ok"),
        ("1.0.0", "ok"),
        ("0.8.9", "problem"),
    ],
)
def test_driverVersions(root: Path, version: str, state: str) -> None:
    found = npu.driver(machines.rk3588(root).write("sys/module/rknpu/version", f"{version}\n").look())
    assert (found.state.value, version in found.found) == (state, True)


def test_aDriverWhoseVersionIsHidden(root: Path) -> None:
    found = npu.driver(machines.rk3588(root).remove("sys/module/rknpu/version").look())
    assert found.state is State.WARNING
    assert "sudo cat /sys/kernel/debug/rknpu/version" in found.todo


def test_aBoardWithoutADriver(root: Path) -> None:
    found = npu.driver(MadeUp(root).write("proc/device-tree/compatible", machines.ROCK_5B).look())
    assert (found.state, found.found) == (State.PROBLEM, "no NPU driver is loaded")


# Device nodes


def test_noPermissionAtAll(root: Path, installed: None) -> None:
    machine = machines.rk3588(root)
    machine.close("dev/dri/card1", 0o660, 44).close("dev/dri/renderD129", 0o660, 105)
    report = examined(machine)
    nodes = finding(report, "device nodes")
    assert nodes.state is State.PROBLEM
    assert nodes.found == f"{root}/dev/dri/card1 and {root}/dev/dri/renderD129 may not be opened by this user"
    assert nodes.todo.count("sudo usermod -aG ") == 2
    assert report.serves == ["llamacpp"]
    assert whyNot(structs.replace(report, serves=[]), "m.rkllm") == (
        "m.rkllm cannot be served here: problems with: device nodes"
    )


def test_permissionOfOneNodeOnly(root: Path) -> None:
    """Which of the two the library opens is not documented."""
    found = npu.nodes(machines.rk3588(root).close("dev/dri/card1", 0o660, 424242).look())
    assert found.state is State.WARNING
    assert found.todo == "sudo usermod -aG 424242 $USER, and log in again"


def test_aNodeForRootOnly(root: Path) -> None:
    machine = MadeUp(root).write("proc/device-tree/compatible", "rockchip,rv1126b\0").write("dev/rknpu")
    found = npu.nodes(machine.close("dev/rknpu", 0o600, 0).look())
    assert found.state is State.PROBLEM
    assert found.todo.startswith(f"sudo chgrp render {root}/dev/rknpu && sudo chmod 660 {root}/dev/rknpu")


def test_aNodeOfADriverWithoutDRM(root: Path) -> None:
    machine = MadeUp(root).write("proc/device-tree/compatible", "rockchip,rv1126b\0").write("dev/rknpu")
    assert npu.nodes(machine.look()) == Finding("device nodes", State.OK, f"{root}/dev/rknpu, may be opened")


def test_aLinkInPlaceOfTheNode(root: Path) -> None:
    found = npu.nodes(machines.rk3588(root).link("dev/rknpu", "dri/renderD129").look())
    assert (found.state, found.todo) == (State.WARNING, f"remove it: sudo rm {root}/dev/rknpu")


# CPUs


@pytest.mark.parametrize(
    ("compatible", "online", "allowed", "state", "taken"),
    [
        ("rockchip,rk3588", "0-7", "0-7", "ok", "4-7"),
        ("rockchip,rk3576", "0-7", "4-7", "ok", "4-7"),
        ("rockchip,rk3588", "0-7", "0-7,9-99", "ok", "4-7"),
        ("rockchip,rk3588", "0-7", "4-6", "ok", "4-6"),
        ("rockchip,rk3588", "0-5", "0-7", "warning", "2-5"),
        ("rockchip,rk3576", "0-7", "0-3,6", "warning", "1-3,6"),
        ("rockchip,rk3588", "0-7", "6-7", "problem", "6-7"),
        ("rockchip,rk3576", "0-7", "6-7", "ok", "6-7"),
        ("rockchip,rk3562", "0-3", "0-3", "ok", "0-3"),
        ("rockchip,rk3562", "0-1", "0-3", "ok", "0-1"),
    ],
)
def test_theDefaultMask(root: Path, compatible: str, online: str, allowed: str, state: str, taken: str) -> None:
    machine = MadeUp(root).write("proc/device-tree/compatible", f"{compatible}\0")
    machine.write("sys/devices/system/cpu/online", f"{online}\n")
    machine.write("proc/self/status", f"Cpus_allowed_list:\t{allowed}\n")
    found = npu.cpus(machine.look())
    assert found.state.value == state
    assert found.found.startswith(f"CPUs {taken} by default, of ")
    assert bool(found.todo) is (state != "ok")


def test_cpusThatCannotBeTold(root: Path) -> None:
    found = npu.cpus(MadeUp(root).write("proc/device-tree/compatible", machines.ROCK_5B).look())
    assert found.state is State.WARNING

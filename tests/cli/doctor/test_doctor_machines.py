"""Whole machines, made up in a directory, and the one that this is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rkllm_twisted.cli.doctor.findings import State
from rkllm_twisted.cli.doctor.machine import Machine
from rkllm_twisted.cli.doctor.serving import Subject, examine
from rkllm_twisted.cli.doctor.telling import reportLines, whyNot
from tests.cli.doctor import machines
from tests.cli.doctor.examining import BOTH, LIBRARY, WHY, examined, finding, maker, states
from tests.native.build import buildStandin


def test_aHealthyBoard(root: Path, installed: None) -> None:
    report = examined(machines.rk3588(root))
    assert {finding.name: (finding.state, finding.found) for finding in report.findings} == {
        "chip": (State.OK, "RK3588 (radxa,rock-5b)"),
        "driver": (State.OK, "rknpu 0.9.8"),
        "device nodes": (State.OK, f"{root}/dev/dri/card1 and {root}/dev/dri/renderD129, may be opened"),
        "cpu mask": (State.OK, "CPUs 4-7 by default, of 0-7"),
        "library": (State.OK, f"{LIBRARY}: RKLLM 1.3.0, family 1.3 (by text)"),
        "opening it": (State.OK, "it opens"),
        "memory": (State.OK, "16.38 GB free"),
        "socket": (State.OK, f"{root}/rkllm.sock can be listened on"),
        "open files": (State.OK, "1024 allowed, enough for 100 clients"),
        "backend rkllm": (State.OK, "the rkllm"),
        "backend llamacpp": (State.OK, "the llamacpp"),
    }
    assert all(finding.todo == "" for finding in report.findings)
    assert report.serves == ["rkllm", "llamacpp"]


def test_aBoardWithAnOldDriver(root: Path, installed: None) -> None:
    report = examined(machines.oldDriver(root))
    driver = finding(report, "driver")
    assert (driver.state, driver.found.partition(":")[0]) == (State.PROBLEM, "rknpu 0.8.2 is too old")
    assert "0.9.8" in driver.todo
    assert report.serves == ["llamacpp"]
    assert list(reportLines(report))[-1].startswith("The NPU cannot serve yet: driver. The backend llamacpp can")
    assert {name for name, state in states(report).items() if state != "ok"} == {"driver"}


def test_aContainerThatHidesTheBoard(root: Path, installed: None) -> None:
    report = examined(machines.container(root))
    chip, nodes = finding(report, "chip"), finding(report, "device nodes")
    assert (chip.state, nodes.state) == (State.PROBLEM, State.PROBLEM)
    assert "/proc/device-tree" in chip.found
    assert "systempaths=unconfined" in chip.todo
    assert f"{root}/dev/dri/card1 and {root}/dev/dri/renderD129" in nodes.found
    assert nodes.todo == "start the container with --device /dev/dri"
    assert finding(report, "memory").found == "2.15 GB free"  # what the control group allows
    assert report.serves == ["llamacpp"]


def test_aPC(root: Path, missing: None) -> None:
    report = examined(machines.pc(root), makers=[maker("rkllm", WHY, 20), maker("llamacpp")])
    ofNPU = ("chip", "driver", "device nodes", "cpu mask", "library", "backend rkllm")
    assert {name for name, state in states(report).items() if state == "absent"} == set(ofNPU)
    assert {state for name, state in states(report).items() if name not in ofNPU} == {"ok"}
    assert "no NPU" in finding(report, "chip").found
    assert report.serves == ["llamacpp"]


def test_aPCIsNoBoardForHavingALibrary(root: Path, installed: None) -> None:
    assert examined(machines.pc(root)).serves == ["llamacpp"]


def test_aBoardWithoutALibrary(root: Path, missing: None) -> None:
    report = examined(machines.rk3588(root))
    found = finding(report, "library")
    assert (found.state, found.found) == (State.PROBLEM, "librkllmrt.so was not found")
    assert "board.md" in found.todo
    assert report.serves == ["llamacpp"]


def test_aBoardWithTheStandin(root: Path, tmp_path: Path) -> None:
    """Nothing is replaced here but the machine."""
    machine = machines.rk3588(root)
    machine.environ["RKLLM_LIBRARY"] = str(buildStandin("1.2.0", tmp_path))
    report = examined(machine)
    said = f"{tmp_path}/librkllmrt.so: RKLLM 1.2.0, family 1.2.0 (by text, symbols"
    assert finding(report, "library").found.startswith(said)
    assert finding(report, "opening it").state is State.OK
    assert report.serves == ["rkllm", "llamacpp"]


def test_aLibraryThatOnlyTheDoctorWasTold(root: Path, installed: None) -> None:
    """The backend would find none by itself; the command that starts the daemon names it."""
    machine, makers = machines.rk3588(root), [maker("rkllm", WHY, 20), maker("llamacpp")]
    report = examine(machine.look(), Subject(machine.path("s"), library="/opt/my rk:llm.so"), makers)
    assert report.serves == ["rkllm", "llamacpp"]
    assert report.start == r"twistd rkllm --backend 'rkllm:library=/opt/my rk\:llm.so' --model NAME_OR_PATH"
    assert examined(machine, makers=makers).start == "twistd rkllm --backend llamacpp --model NAME_OR_PATH"


@pytest.mark.parametrize(
    ("content", "said"), [(None, "library= names {}, which is not a file"), ("hello", "{}: not an ELF file")]
)
def test_aNamedLibraryThatIsNone(root: Path, tmp_path: Path, content: str | None, said: str) -> None:
    """A problem wherever it is: somebody has asked for it. The backend is not called fit beside it."""
    path = tmp_path / "librkllmrt.so"
    if content is not None:
        path.write_text(content)
    machine = machines.pc(root)
    report = examine(machine.look(), Subject(machine.path("s"), library=str(path)), BOTH)
    found = finding(report, "library")
    assert (found.state, found.found) == (State.PROBLEM, said.format(path))
    backend = finding(report, "backend rkllm")
    assert (backend.state, backend.found) == (State.ABSENT, f"library: {said.format(path)}")
    assert report.serves == ["llamacpp"]


def test_aBoardWithMainline(root: Path, installed: None) -> None:
    report = examined(machines.mainline(root))
    assert "rocket" in finding(report, "driver").found
    assert {name for name, state in states(report).items() if state == "problem"} == {"driver", "device nodes"}


def test_nothingServes(root: Path, missing: None) -> None:
    report = examined(machines.pc(root), makers=[maker("llamacpp", WHY)])
    assert report.serves == []
    assert finding(report, "backend llamacpp").found == "no llama.cpp here"
    assert list(reportLines(report))[-1] == "Nothing can be served here yet."
    assert whyNot(report, None) == "a model cannot be served here: no backend is usable"


def test_theMachineItselfCanBeLookedAt() -> None:
    machine = Machine()
    assert machine.cpus() == os.sched_getaffinity(0)
    assert (machine.freeMemory() or 0) > 0

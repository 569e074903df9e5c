"""``rkllm doctor``: single checks, and whole machines made up in a directory."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import structs

from rkllm_twisted.backends import BackendMaker
from rkllm_twisted.backends.rkllm.detection import Evidence
from rkllm_twisted.backends.rkllm.detection import Finding as Detected
from rkllm_twisted.backends.rkllm.families import FAMILIES
from rkllm_twisted.backends.rkllm.searching import NoLibrary
from rkllm_twisted.cli.arguments import parse
from rkllm_twisted.cli.doctor import library, npu, resources, serving
from rkllm_twisted.cli.doctor.findings import Finding, Report, State
from rkllm_twisted.cli.doctor.machine import Machine
from rkllm_twisted.cli.doctor.serving import Subject, examine
from rkllm_twisted.cli.doctor.telling import reportLines, whyNot
from tests import machines
from tests.machines import MadeUp
from tests.native.build import buildStandin
from tests.tiny_model import writeModel

LIBRARY = "/opt/librkllmrt.so"
THE_LIBRARY = Detected(
    LIBRARY,
    "1.3",
    "1.3.0",
    [Evidence("hash", "not known", tuple(FAMILIES)), Evidence("text", "version 1.3.0", ("1.3",))],
    None,
)


def no(options: dict[str, str]) -> None:
    raise AssertionError("the doctor makes no backend")


def why() -> str:
    return "no llama.cpp here"


def maker(name: str, unusable: str | None = None, preference: int | None = 10) -> BackendMaker:
    return BackendMaker(name, f"the {name}", f"{__name__}.no", unusable, preference)


BOTH = [maker("rkllm", preference=20), maker("llamacpp"), maker("scripted", preference=None)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "machine").mkdir()
    return tmp_path / "machine"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a library, and it opens."""
    monkeypatch.setattr(serving, "findLibrary", lambda option, environ: option or LIBRARY)
    monkeypatch.setattr(serving, "detect", lambda path: structs.replace(THE_LIBRARY, path=path))
    monkeypatch.setattr(library, "opens", lambda path: Finding("opening it", State.OK, "it opens"))


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no library."""

    def find(option: str | None, environ: object) -> str:
        raise NoLibrary("librkllmrt.so was not found")

    monkeypatch.setattr(serving, "findLibrary", find)


def examined(machine: MadeUp, model: str | None = None, makers: list[BackendMaker] | None = None) -> Report:
    subject = Subject(machine.path("rkllm.sock"), model=model)
    return examine(machine.look(), subject, BOTH if makers is None else makers)


def states(report: Report) -> dict[str, str]:
    return {finding.name: finding.state.value for finding in report.findings}


def finding(report: Report, name: str) -> Finding:
    (one,) = (finding for finding in report.findings if finding.name == name)
    return one


# Whole machines


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
    report = examined(machines.pc(root), makers=[maker("rkllm", f"{__name__}.why", 20), maker("llamacpp")])
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
    machine, makers = machines.rk3588(root), [maker("rkllm", f"{__name__}.why", 20), maker("llamacpp")]
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
    report = examined(machines.pc(root), makers=[maker("llamacpp", f"{__name__}.why")])
    assert report.serves == []
    assert finding(report, "backend llamacpp").found == "no llama.cpp here"
    assert list(reportLines(report))[-1] == "Nothing can be served here yet."
    assert whyNot(report, None) == "a model cannot be served here: no backend is usable"


# The chip


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


# The library


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


# The model


def test_aModelForTheNPU(root: Path, tmp_path: Path, installed: None) -> None:
    path = tmp_path / "Qwen3-0.6B-w8a8-rk3588.rkllm"
    path.write_bytes(b"model" * 1000000)
    report = examined(machines.rk3588(root), str(path))
    assert finding(report, "model").found == f"{path}: a file of 5 MB, for the NPU backend rkllm"
    assert finding(report, "memory").found == "16.38 GB free, 5 MB for the model's file alone"
    assert report.serves == ["rkllm"]
    assert list(reportLines(report))[-1].endswith(f"twistd rkllm --backend rkllm --model {path}")


def test_aModelForTheNPUOnAPC(root: Path, tmp_path: Path, missing: None) -> None:
    path = tmp_path / "m.rkllm"
    path.write_bytes(b"model")
    report = examined(machines.pc(root), str(path), [maker("llamacpp")])
    assert (report.serves, states(report)["model"]) == ([], "ok")
    assert whyNot(report, "m.rkllm") == "m.rkllm cannot be served here: it is for the backend rkllm"


def test_aModelForTheCPU(root: Path, tmp_path: Path, installed: None) -> None:
    path = tmp_path / "m.gguf"
    writeModel(path)
    report = examined(machines.rk3588(root), str(path))
    assert "for the CPU backend llamacpp" in finding(report, "model").found
    assert report.serves == ["llamacpp"]


def test_aModelForAnotherChip(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "qwen_RK3576_w4a16.rkllm"
    path.write_bytes(b"model")
    found = resources.model(machines.rk3588(root).look(), str(path))
    assert found.state is State.WARNING
    assert "converted for RK3576, and this is RK3588" in found.found


@pytest.mark.parametrize(
    ("name", "message"),
    [("no.rkllm", "No such file"), ("no.gguf", "no such file"), ("empty.rkllm", "is empty"), ("text.bin", "")],
)
def test_modelsThatCannotBeRead(root: Path, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty.rkllm").touch()
    (tmp_path / "text.bin").write_text("hello")
    path = str(tmp_path / name)
    found = resources.model(MadeUp(root).look(), path)
    assert found.state is State.PROBLEM
    assert message in found.found
    assert path in found.found
    assert ".rkllm" in found.todo


def test_aModelThatWouldBlock(root: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.rkllm")
    assert "not a file" in resources.model(MadeUp(root).look(), str(tmp_path / "pipe.rkllm")).found


def test_aModelThatDoesNotFit(root: Path, tmp_path: Path, installed: None) -> None:
    path = tmp_path / "m.rkllm"
    with open(path, "wb") as file:
        file.truncate(3 * 2**30)  # takes no room on disk
        file.write(b"m")
    machine = machines.rk3588(root).write("proc/meminfo", "MemAvailable:   1000000 kB\n")
    report = examined(machine, str(path))
    memory = finding(report, "memory")
    assert (memory.state, memory.found) == (State.PROBLEM, "1.02 GB free, 3.22 GB for the model's file alone")
    assert report.serves == []


# Socket and files


def test_theSocketIsLeftAsItIs(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        assert resources.socket(str(path)).found == f"a server is listening at {path}"
        assert resources.socket(f"unix:{path}:timeout=3").found == f"a server is listening at unix:{path}:timeout=3"
    assert resources.socket(str(path)).found.endswith("the socket that was left there will be replaced")
    assert path.exists()


def test_aSocketThatCannotBe(root: Path, tmp_path: Path, missing: None) -> None:
    machine = machines.pc(root)
    report = examine(machine.look(), Subject(str(tmp_path / "nowhere" / "s")), [maker("llamacpp")])
    assert states(report)["socket"] == "problem"
    assert report.serves == []
    assert whyNot(report, None) == "a model cannot be served here: problems with: socket"


def test_anAddressThatIsNoPath() -> None:
    assert resources.socket("tcp:localhost:1").state is State.OK
    assert "key=value" in resources.socket("unix:/s:x").found


@pytest.mark.parametrize(("clients", "state"), [(None, "ok"), ("1000", "warning"), ("960", "ok"), ("x", "ok")])
def test_openFiles(root: Path, clients: str | None, state: str) -> None:
    machine = machines.pc(root)
    machine.environ |= {} if clients is None else {"RKLLM_MAX_CLIENTS": clients}
    found = resources.files(machine.look())
    assert found.state.value == state
    assert ("ulimit -n 1064" in found.todo) is (state == "warning")


def test_openFilesWithoutALimit(root: Path) -> None:
    machine = MadeUp(root).write(
        "proc/self/limits", f"{machines.LIMITS}Max open files            unlimited            unlimited"
    )
    assert resources.files(machine.look()).found == "not limited"


# What is written


def test_whatIsWritten() -> None:
    findings = [
        Finding("chip", State.ABSENT, "no NPU"),
        Finding("open files", State.WARNING, "64 allowed", "ulimit -n 164"),
    ]
    assert list(reportLines(Report(["llamacpp"], "twistd rkllm --model m", findings))) == [
        "absent   chip        no NPU",
        "warning  open files  64 allowed",
        "                     -> ulimit -n 164",
        "",
        "There is no NPU here. The backend llamacpp can serve: twistd rkllm --model m",
    ]


def command(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rkllm_twisted.cli", "doctor", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environ},
    )


def test_theCommand(tmp_path: Path) -> None:
    """Whatever this machine is, it has the CPU backend, or the tests would not run."""
    done = command("--json", RKLLM_UDS_PATH=str(tmp_path / "s"))
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert "llamacpp" in report["serves"]
    assert {"name", "state", "found", "todo"} == set(report["findings"][0])


def test_theCommandWhereNothingServes(tmp_path: Path) -> None:
    done = command("--model", str(tmp_path / "m.rkllm"), RKLLM_UDS_PATH=str(tmp_path / "s"))
    assert done.returncode == 1
    assert "Nothing can be served here yet." in done.stdout
    assert done.stderr.startswith(f"rkllm: {tmp_path}/m.rkllm cannot be served here: problems with: model")
    assert done.stderr.count("\n") == 1


def test_whatTheCommandLineSays() -> None:
    options = parse(["doctor", "--model", "m", "--library", "/l.so", "--socket", "/s"], {})
    assert (options.model, options.library, options.socket, options.json) == ("m", "/l.so", "/s", False)


def test_theMachineItselfCanBeLookedAt() -> None:
    machine = Machine()
    assert machine.cpus() == os.sched_getaffinity(0)
    assert (machine.freeMemory() or 0) > 0

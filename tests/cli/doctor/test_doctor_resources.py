"""The model and the memory for it, the socket, and the open files."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from rkllm_twisted.cli.doctor import resources
from rkllm_twisted.cli.doctor.findings import State
from rkllm_twisted.cli.doctor.serving import Subject, examine
from rkllm_twisted.cli.doctor.telling import reportLines, whyNot
from tests.cli.doctor import machines
from tests.cli.doctor.examining import examined, finding, maker, states
from tests.cli.doctor.machines import MadeUp
from tests.tiny_model import writeModel


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

"""``rkllm doctor``: what it writes."""

from __future__ import annotations

import json
from pathlib import Path

from rkllm_twisted.cli.arguments import parse
from rkllm_twisted.cli.doctor.findings import Finding, Report, State
from rkllm_twisted.cli.doctor.telling import reportLines
from tests.cli.processes import ran


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


def test_theCommand(tmp_path: Path) -> None:
    """Whatever this machine is, it has the CPU backend, or the tests would not run."""
    done = ran("doctor", "--json", RKLLM_UDS_PATH=str(tmp_path / "s"))
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert "llamacpp" in report["serves"]
    assert {"name", "state", "found", "todo"} == set(report["findings"][0])


def test_theCommandWhereNothingServes(tmp_path: Path) -> None:
    done = ran("doctor", "--model", str(tmp_path / "m.rkllm"), RKLLM_UDS_PATH=str(tmp_path / "s"))
    assert done.returncode == 1
    assert "Nothing can be served here yet." in done.stdout
    assert done.stderr.startswith(f"rkllm: {tmp_path}/m.rkllm cannot be served here: problems with: model")
    assert done.stderr.count("\n") == 1


def test_whatTheCommandLineSays() -> None:
    options = parse(["doctor", "--model", "m", "--library", "/l.so", "--socket", "/s"], {})
    assert (options.model, options.library, options.socket, options.json) == ("m", "/l.so", "/s", False)

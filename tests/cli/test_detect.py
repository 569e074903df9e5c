"""``rkllm detect``: what it writes of a finding. What is found: tests/backends/rkllm/test_rkllm_detection.py."""

from __future__ import annotations

import io
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from rkllm_twisted.backends.rkllm import detection
from rkllm_twisted.backends.rkllm.detection import Evidence, Finding
from rkllm_twisted.backends.rkllm.families import FAMILIES
from rkllm_twisted.cli.arguments import parse
from rkllm_twisted.cli.local import carryOut
from rkllm_twisted.cli.terminal import Terminal
from tests.cli.processes import ran
from tests.native.build import buildStandin

PATH = "/opt/librkllmrt.so"
DECIDED = Finding(
    PATH,
    "1.2.1",
    "1.2.3",
    [
        Evidence("hash", "not known", tuple(FAMILIES)),
        Evidence("text", "version 1.2.3", ("1.2.1",)),
        Evidence("symbols", "rkllm_set_function_tools", ("1.2.1", "1.3", "1.3.1")),
    ],
    None,
    "aarch64",
)
TOO_OLD = Finding(PATH, None, None, [Evidence("symbols", "no rkllm_run_async", ())], "it is too old", "aarch64")


def detected(
    finding: Finding, monkeypatch: pytest.MonkeyPatch, *arguments: str, stdout: io.StringIO | None = None
) -> tuple[int, str, str]:
    """Carry the command out on a file of which this is known."""
    asked = []

    def detect(path: str, probe: bool) -> Finding:
        asked.append((path, probe))
        return finding

    monkeypatch.setattr(detection, "detect", detect)
    out, err = stdout or io.StringIO(), io.StringIO()
    status = carryOut(parse(["detect", PATH, *arguments], {}), Terminal(out, err, {}))
    assert asked == [(PATH, "--no-probe" not in arguments)]
    return status, out.getvalue(), err.getvalue()


def test_aFamily(monkeypatch: pytest.MonkeyPatch) -> None:
    status, out, err = detected(DECIDED, monkeypatch)
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "library  /opt/librkllmrt.so",
        "machine  aarch64",
        "family   1.2.1",
        "version  1.2.3",
        "",
        "evidence  fits               found",
        "hash      any                not known",
        "text      1.2.1              version 1.2.3",
        "symbols   1.2.1, 1.3, 1.3.1  rkllm_set_function_tools",
    ]


def test_noFamily(monkeypatch: pytest.MonkeyPatch) -> None:
    status, out, err = detected(TOO_OLD, monkeypatch, "--no-probe")
    assert (status, err) == (1, "rkllm: /opt/librkllmrt.so: it is too old\n")
    assert out.splitlines() == [
        "library  /opt/librkllmrt.so",
        "machine  aarch64",
        "family   not decided",
        "version  unknown",
        "",
        "evidence  fits  found",
        "symbols   none  no rkllm_run_async",
    ]


def test_json(monkeypatch: pytest.MonkeyPatch) -> None:
    status, out, err = detected(TOO_OLD, monkeypatch, "--json")
    assert (status, err) == (1, "rkllm: /opt/librkllmrt.so: it is too old\n")
    assert json.loads(out) == {
        "path": PATH,
        "family": None,
        "version": None,
        "evidence": [{"source": "symbols", "found": "no rkllm_run_async", "families": []}],
        "problem": "it is too old",
        "machine": "aarch64",
    }


class Gone(io.StringIO):
    """Standard output whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_theReaderHasGone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert detected(DECIDED, monkeypatch, stdout=Gone())[0] == 141


def test_aLibrary(tmp_path: Path) -> None:
    library = str(buildStandin("1.3", tmp_path))
    done = ran("detect", library)
    assert (done.returncode, done.stderr) == (0, "")
    facts = [f"library  {library}", f"machine  {platform.machine()}", "family   1.3", "version  1.3.0"]
    assert done.stdout.splitlines()[:4] == facts
    done = ran("detect", "--no-probe", "--json", library)
    finding = json.loads(done.stdout)
    assert (finding["family"], finding["problem"]) == ("1.3", None)
    assert [evidence["source"] for evidence in finding["evidence"]] == ["hash", "text", "symbols"]


def test_aFileThatIsNoLibrary(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    done = ran("detect", str(tmp_path / "text"))
    assert (done.returncode, done.stderr) == (1, f"rkllm: {tmp_path}/text: not an ELF file\n")
    assert "machine  unknown" in done.stdout.splitlines()


def test_aPathThatIsNotUTF8(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"\xff.so")
    assert ran("detect", path).returncode == 1
    done = ran("detect", "--json", path)
    assert os.fsencode(json.loads(done.stdout)["path"]) == path


def test_otherCommandsDoNotImportThis(tmp_path: Path) -> None:
    code = (
        "import sys; from rkllm_twisted.cli import main\n"
        f"try: main(['status', '--socket', {str(tmp_path / 's')!r}])\n"
        "finally: print([name for name in sys.modules if name.startswith(\n"
        "    ('rkllm_twisted.backends.', 'rkllm_twisted.cli.doctor', 'rkllm_twisted.cli.local'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "[]\n")


def test_noReactorIsNeeded(tmp_path: Path) -> None:
    code = (
        "import sys; from rkllm_twisted.cli import main\n"
        f"try: main(['doctor', '--socket', {str(tmp_path / 's')!r}])\n"
        "finally: print('twisted.internet.reactor' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "False\n"

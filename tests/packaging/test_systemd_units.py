"""The unit files for systemd: that systemd understands them, how much they leave open, and that the daemon can."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rkllm_twisted.tap import Options

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "packaging/systemd"
SERVICE = (UNITS / "rkllm.service").read_text()
DEPLOY = (ROOT / "docs/howto/deploy.md").read_text()
DIRECTIVE = re.compile(r"^(\w+)=(.*)$", re.MULTILINE)
MOST_EXPOSED = 10
"""Tenths of systemd's exposure level, of which 0 is closed and 100 open. The units have 7."""

needsAnalyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@pytest.fixture
def units(tmp_path):
    """The units, with a twistd that is there."""
    for unit in UNITS.iterdir():
        text = unit.read_text().replace("/opt/rkllm/bin", str(Path(sys.executable).parent))
        (tmp_path / unit.name).write_text(text)
    return tmp_path


def analyze(*arguments):
    return subprocess.run(["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, timeout=60)


@needsAnalyze
def test_systemd_understands_them(units):
    done = analyze("verify", units / "rkllm.service", units / "rkllm.socket")
    # Names of groups are looked up; that of the NPU's devices need not be on the machine of the tests.
    said = [line for line in done.stderr.splitlines() if "does not exist" not in line]
    assert (done.returncode, said) == (0, [])


@needsAnalyze
def test_verify_would_find_a_mistake(units):
    service = units / "rkllm.service"
    service.write_text(service.read_text().replace("KillMode=mixed", "KillMode=gently"))
    assert "kill mode" in analyze("verify", service).stderr


@needsAnalyze
def test_exposure(units):
    service = units / "rkllm.service"
    limit = f"--threshold={MOST_EXPOSED}"
    done = analyze("security", "--no-pager", "--offline=true", limit, service)
    assert done.returncode == 0, done.stdout
    service.write_text(re.sub(r"^(Protect|Restrict|Private|SystemCall)\w+=.*$", "", SERVICE, flags=re.MULTILINE))
    assert analyze("security", "--no-pager", "--offline=true", limit, service).returncode != 0


def test_daemon_takes_the_options(tmp_path):
    [command] = re.findall(r"^ExecStart=(.*)$", SERVICE, re.MULTILINE)
    program, *arguments = shlex.split(command.replace("/var/lib/rkllm", str(tmp_path)))
    assert program.endswith("/twistd")
    options = Options({})
    options.parseOptions(arguments[arguments.index("rkllm") + 1 :])
    assert options["listen"] == [("systemd:rkllm.socket", None)]  # sockets have the names of their units
    assert (UNITS / "rkllm.socket").exists()
    assert options["model-root"] == [str(tmp_path)]


def test_draining_and_the_longest_abort_fit_into_the_stop():
    settings = dict(DIRECTIVE.findall(SERVICE))
    drain = int(re.search(r"--drain (\d+)", SERVICE).group(1))
    assert drain + 30 < int(settings["TimeoutStopSec"])  # --abort-limit


def test_what_callbacks_out_of_c_forbid_is_not_set():
    """`ffi.callback` needs memory that can be written and executed; without the NPU's devices there is no NPU."""
    settings = dict(DIRECTIVE.findall(SERVICE))
    for name in ("MemoryDenyWriteExecute", "PrivateDevices", "PrivateUsers", "ProcSubset"):
        assert name not in settings


@pytest.mark.parametrize("unit", sorted(UNITS.iterdir()), ids=lambda unit: unit.name)
def test_reason_of_each_directive_is_in_the_docs(unit):
    for name, _ in DIRECTIVE.findall(unit.read_text()):
        assert re.search(rf"`{name}=", DEPLOY), name

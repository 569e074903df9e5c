"""The man pages and the completion: as the parsers are, well formed, and at work."""

import shutil
import subprocess

import pytest

from rkllm_twisted.tap import Options
from scripts.manual import PACKAGING, WRITERS


@pytest.mark.parametrize("name", WRITERS)
def test_files_are_as_the_parsers_are(name):
    """Else: make reference"""
    assert (PACKAGING / name).read_text() == "\n".join(WRITERS[name]()) + "\n"


@pytest.mark.parametrize("name", ["rkllm", "twistd-rkllm"])
def test_page_is_well_formed(name):
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    page = str(PACKAGING / f"man/{name}.1")
    done = subprocess.run(
        ["groff", "-ww", "-man", "-Tutf8", "-P-b", "-P-u", "-P-c", page], capture_output=True, text=True
    )
    assert done.stderr == ""
    assert "ENVIRONMENT" in done.stdout


def test_every_option_of_the_daemon_is_on_its_page():
    page = (PACKAGING / "man/twistd-rkllm.1").read_text().replace("\\-", "-")
    for option in Options({}).longOpt:
        name = option.rstrip("=")
        assert name == "help" or f"\\fB--{name}" in page, name


def complete(*words):
    """What the completion offers for the last of these words."""
    script = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _rkllm; printf "%s\\n" "${COMPREPLY[@]}"'
    command = ["bash", "-euc", script, "bash", str(PACKAGING / "completion/rkllm"), "rkllm", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PACKAGING)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["st"], ["status"]),
        (["--so"], ["--socket"]),
        (["run", "--top"], ["--top-k", "--top-p"]),
        (["--socket", "m"], ["man"]),
        (["--socket", "x", "detect", "--n"], ["--no-probe"]),
        (["detect", "comp"], ["completion"]),
        (["chat", "--model", "sys"], ["systemd"]),
        (["run", "status", "--js"], ["--json"]),
        (["nothing", "x"], []),
    ],
)
def test_completion(words, offered):
    assert complete(*words) == offered

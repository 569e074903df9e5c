"""The man pages: as the parsers are, and well formed."""

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

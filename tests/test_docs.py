"""Every ``sh`` block of the README and the docs runs; the blocks of a page in order, in one shell."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.daemon import needsModel

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_MODEL = (
    "README.md",
    "first-token.md",
    "lora.md",
    "logits.md",
    "embeddings.md",
    "prompt-cache.md",
    "tools.md",
    "multi-turn.md",
    "several-inputs.md",
)
WITH_BLOCKS = [page for page in PAGES if "```sh" in page.read_text()]


def script(page):
    """The commands of a page. ``make`` is not run in them: its targets are tried on a clean checkout and by CI."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return "set -eu\n" + "".join(re.sub(r"^make .*\n", "", block, flags=re.MULTILINE) for block in blocks)


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=page.stem, marks=[needsModel] if page.name in WITH_MODEL else []) for page in WITH_BLOCKS],
)
def test_commands(page, tmp_path):
    commands = script(page)
    missing = [tool for tool in ("nc", "node") if f" {tool} " in commands and shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RKLLM_UDS_PATH": str(tmp_path / "rkllm.sock"),
    }
    # To files and not to pipes, which a daemon that a failed script leaves would hold open.
    with open(tmp_path / "output", "w+") as output:
        shell = subprocess.run(["bash", "-c", commands], cwd=tmp_path, env=environment, stdout=output, stderr=output)
        output.seek(0)
        said = output.read()
    if (tmp_path / "twistd.pid").exists():
        subprocess.run(["kill", (tmp_path / "twistd.pid").read_text()])
    assert shell.returncode == 0, said


def test_make_targets_exist():
    named = {target for page in PAGES for target in re.findall(r"^make ([a-z]+)", page.read_text(), re.MULTILINE)}
    assert named
    for target in named:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#:]+)\)", prose):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_no_empty_page():
    assert all(page.read_text().strip() for page in PAGES)

"""What a release needs is in one place, and the places agree."""

import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from tests.native.build import buildStandin

ROOT = Path(__file__).parents[2]
COPIED = ("rkllm_twisted/", "twisted/", "tests/", "docs/", "scripts/", "setup.cfg")
"""What the recipes of CONTRIBUTING.md change, and what looks at it."""


@pytest.fixture
def config():
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_version_is_in_one_place(config):
    assert config["metadata"]["version"] == "attr: rkllm_twisted._version.__version__"
    version = re.search(r'"(.+)"', (ROOT / "rkllm_twisted/_version.py").read_text().split("=")[1])[1]
    sources = [*(ROOT / "rkllm_twisted").rglob("*.py"), ROOT / "setup.cfg", ROOT / "docs/conf.py", *ROOT.glob("*.toml")]
    holding = {path.name for path in sources if re.search(rf"version.*\b{re.escape(version)}\b", path.read_text())}
    assert holding == {"_version.py"}


def test_pythons_of_the_matrix_are_the_ones_promised(config):
    promised = re.findall(r"Python :: (3\.\d+)", config["metadata"]["classifiers"])
    assert re.findall(r'"(3\.\d+)"', (ROOT / "noxfile.py").read_text()) == promised


def test_every_extra_has_its_reason(config):
    page = (ROOT / "docs/explanation/house.md").read_text()
    for extra, packages in config["options.extras_require"].items():
        assert f"extra `{extra}`" in page, extra
        for package in packages.split():
            name = re.split(r"[><=]", package)[0]
            assert re.search(rf"\b{re.escape(name)}\b", page, re.IGNORECASE), name


def test_fragments_have_kinds_that_towncrier_knows():
    kinds = re.findall(r'^directory = "(\w+)"$', (ROOT / "pyproject.toml").read_text().split("[[", 1)[1], re.MULTILINE)
    fragments = [path.name for path in (ROOT / "changes").iterdir() if path.name != "README.md"]
    assert all(name.split(".")[1] in kinds and name.endswith(".md") for name in fragments)


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """A copy of the sources with the recipes of CONTRIBUTING applied to it, and the modules of the new family."""
    copy = tmp_path_factory.mktemp("recipes")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a checkout of git")
    for name in filter(None, listed.stdout.split("\0")):
        if name.startswith(COPIED) and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    diffs = re.findall(r"^```diff\n(.*?)^```$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(diffs) == 3
    for diff in diffs:
        done = subprocess.run(["git", "apply"], input=diff, cwd=copy, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert "_abi_1_4.py" in runIn(copy, "-m", "rkllm_twisted.backends.rkllm.families.declarations")
    (copy / "docs/reference/methods.md").write_text(runIn(copy, "scripts/reference.py"))  # of make reference
    return copy


def runIn(copy, *command):
    """What a Python in the copy says."""
    environ = {**os.environ, "PYTHONPATH": str(copy)}
    done = subprocess.run([sys.executable, *command], cwd=copy, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_recipe_of_a_method(recipes):
    tests = ["tests/test_transcripts.py", "tests/test_rules.py", "tests/methods/test_openrpc.py"]
    assert "test_transcript[version]" in runIn(recipes, "-m", "pytest", "-v", "-p", "no:cacheprovider", *tests)
    assert "nothing found" in runIn(recipes, "-m", "tests.fuzz", "--seed", "1", "--lines", "2000")


def test_recipe_of_a_backend(recipes):
    tests = ["tests/contract/test_shouting.py", "tests/test_imports.py", "-k", "shouting"]
    assert "TestShouting" in runIn(recipes, "-m", "pytest", "-v", "-p", "no:cacheprovider", *tests)
    code = "from rkllm_twisted.backends import makeBackend; print(makeBackend('shouting').name)"
    assert runIn(recipes, "-c", code) == "shouting\n"


def test_recipe_of_a_family(recipes, tmp_path):
    code = (
        "from rkllm_twisted.backends.rkllm.families import FAMILIES as f;"
        "print([f[key].hasField('RKLLMInferParam', 'seed') for key in ('1.3.1', '1.4')])"
    )
    assert runIn(recipes, "-c", code) == "[False, True]\n"
    if shutil.which("gcc") is not None:  # its exports are those of 1.3.1
        library = buildStandin("1.3.1", tmp_path, '-DSTANDIN_VERSION="1.4.0"')
        assert "family   1.4\n" in runIn(recipes, "-m", "rkllm_twisted.cli", "detect", "--no-probe", str(library))

"""The built wheel in an empty environment, as somebody who installs it gets it."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.end_to_end.daemon import Daemon

ROOT = Path(__file__).parents[2]
THIRD_PARTY = ROOT / "examples/backend_echo"


@pytest.fixture(scope="module", autouse=True)
def emptyEnvironment():
    """Nothing of the checkout is seen by the programs of the empty environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH", raising=False)
        yield


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sourcesOf(directory, target):
    """A copy without what earlier builds left, so that the wheel has what a clean checkout would give it."""
    unwanted = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "dropin.cache")
    return shutil.copytree(directory, target, ignore=unwanted)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The programs of an environment with the wheel and a package of somebody else's in it."""
    directory = tmp_path_factory.mktemp("installed")
    for source in (ROOT, THIRD_PARTY):
        copy = sourcesOf(source, directory / source.name)
        run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", directory / "wheels", copy)
    run(sys.executable, "-m", "venv", directory / "venv")
    run(directory / "venv/bin/pip", "install", "--quiet", *(directory / "wheels").glob("*.whl"))
    return directory


def test_wheel_has_what_it_should_and_nothing_of_twisted(installed):
    [wheel] = (installed / "wheels").glob("rkllm_twisted-*-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if name.startswith("twisted")} == {
        "twisted/plugins/rkllm_plugin.py",
        "twisted/plugins/rkllm_backends.py",
    }
    assert "rkllm_twisted/py.typed" in names
    assert not [name for name in names if name.startswith(("tests", "docs", "scripts"))]
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "rkllm_twisted").rglob("*.py")}
    assert package <= set(names)


def test_twistd_lists_it(installed):
    assert "rkllm  " in run(installed / "venv/bin/twistd", "--help", cwd=installed)


def test_backends_of_other_packages_are_listed(installed):
    listed = run(installed / "venv/bin/twistd", "rkllm", "--list-backends", cwd=installed)
    assert "echo       says the prompt again, times=N times (usable)" in listed
    assert "llamacpp" in listed
    assert "not usable here" in listed  # the extra cpu is not installed there


def test_without_a_usable_backend_it_says_what_to_install(installed):
    command = [str(installed / "venv/bin/twistd"), "-n", "--pidfile=", "rkllm"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=installed)
    assert done.returncode == 1
    assert "pip install" in done.stderr
    assert done.stderr.count("\n") == 1


def test_serves_with_a_backend_of_another_package(installed, tmp_path):
    server = Daemon(tmp_path, "--backend", "echo:times=2", "--model", "any", bin=installed / "venv/bin")
    client = server.connect()
    client.send("rkllm.run", None, {"prompt_input": "how are you"}, None, None)
    assert "".join(result["text"] or "" for result in client.stream()) == "how are youhow are you"
    client.close()
    server.stop()


def test_command_is_installed(installed):
    assert run(installed / "venv/bin/rkllm", "--version").startswith("rkllm 0")

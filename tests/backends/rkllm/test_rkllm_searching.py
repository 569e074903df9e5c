"""Where the library is, and what is said where there is none."""

import shutil
import struct
from pathlib import Path

import pytest
import pytest_twisted
from msgspec import structs
from twisted.internet import reactor

from rkllm_twisted.backends import NoSuchBackend, backendMakers, located, makeBackend, rkllm
from rkllm_twisted.backends.isolated.backend import IsolatedBackend
from rkllm_twisted.backends.isolated.limits import Limits
from rkllm_twisted.backends.rkllm import searching
from rkllm_twisted.backends.rkllm.searching import NoLibrary, findLibrary
from tests.standins import needsCompiler, standin


@pytest.fixture
def places(tmp_path):
    """Directories first, second and third; a library is put into one with `put`."""
    for name in ("first", "second", "third"):
        (tmp_path / name).mkdir()
    return tmp_path


def put(directory):
    (directory / "librkllmrt.so").touch()
    return str(directory / "librkllmrt.so")


def test_order(places):
    directories = [places / "first", places / "second"]
    environ = {"LD_LIBRARY_PATH": f":{places / 'third'}"}
    third = put(places / "third")
    assert findLibrary(None, environ, directories) == third
    second = put(places / "second")
    assert findLibrary(None, environ, directories) == second
    first = put(places / "first")
    assert findLibrary(None, environ, directories) == first
    assert findLibrary(None, {**environ, "RKLLM_LIBRARY": second}, directories) == second
    assert findLibrary(third, {**environ, "RKLLM_LIBRARY": second}, directories) == third


def test_nothing_found(places):
    with pytest.raises(NoLibrary) as none:
        findLibrary(None, {"LD_LIBRARY_PATH": str(places / "third")}, [places / "first"])
    assert str(none.value) == (
        f"there is no librkllmrt.so in {places}/first, {places}/third; if you have one, say where: "
        "--backend rkllm:library=PATH or RKLLM_LIBRARY=PATH"
    )


def test_what_is_named_is_not_looked_for_elsewhere(places):
    put(places / "first")
    for option, environ, said in (
        (str(places), {}, "library= names"),
        (None, {"RKLLM_LIBRARY": str(places / "no")}, "the variable RKLLM_LIBRARY names"),
    ):
        with pytest.raises(NoLibrary, match=f"{said} .* which is not a file"):
            findLibrary(option, environ, [places / "first"])


TOO_LONG = "n" * 300
"""A directory that cannot even be looked for, as one that may not be entered: what a test that root runs can have."""


def test_what_cannot_be_looked_at_is_no_library(places):
    assert findLibrary(None, {"LD_LIBRARY_PATH": f"/{TOO_LONG}:{places}/second"}, [put(places / "second")])
    with pytest.raises(NoLibrary, match=r"there is no librkllmrt\.so"):
        findLibrary(None, {}, [places / TOO_LONG])
    with pytest.raises(NoLibrary, match=r"library= names /n+, which is not a file: file name too long$"):
        findLibrary(f"/{TOO_LONG}", {}, [])


def test_path_is_absolute_wherever_it_comes_from(places, monkeypatch):
    """The library is opened later than it is found, and maybe in another directory."""
    path = put(places / "first")
    monkeypatch.chdir(places)
    assert findLibrary("first/librkllmrt.so", {}, []) == path
    assert findLibrary(None, {"RKLLM_LIBRARY": "first/librkllmrt.so"}, []) == path
    assert findLibrary(None, {"LD_LIBRARY_PATH": "first"}, []) == path


def test_usual_directories():
    assert searching.DIRECTORIES == ("/usr/lib", "/usr/local/lib", "/lib", "/usr/lib/aarch64-linux-gnu")


# The backend


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """No library is where it usually is."""
    monkeypatch.setattr(rkllm, "findLibrary", lambda option, environ: findLibrary(option, environ, [tmp_path]))
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    monkeypatch.delenv("RKLLM_LIBRARY", raising=False)


def test_machine_without_a_library(elsewhere):
    assert rkllm.unusable().startswith("there is no librkllmrt.so in")
    with pytest.raises(NoSuchBackend, match=r"backend rkllm cannot run here: there is no librkllmrt\.so"):
        makeBackend("rkllm")
    with pytest.raises(ValueError, match="library= names /nowhere, which is not a file"):
        makeBackend("rkllm:library=/nowhere")


def test_wrong_options(elsewhere):
    with pytest.raises(ValueError, match="rkllm: unknown option 'libary', expected library or abi"):
        makeBackend("rkllm:libary=/x:abi=1.3")


@needsCompiler
def test_library_of_the_options(elsewhere, monkeypatch):
    """Whatever is wrong with this machine: the options say where there is one."""
    path = standin("1.2.1")
    assert makeBackend(f"rkllm:library={path}").family.key == "1.2.1"
    with pytest.raises(ValueError, match=r"abi=1.3 contradicts its text \(version 1.2.3\)"):
        makeBackend(f"rkllm:library={path}:abi=1.3")


@needsCompiler
def test_machine_with_a_library_takes_it_unasked(elsewhere, monkeypatch):
    """The NPU before the CPU."""
    monkeypatch.setenv("RKLLM_LIBRARY", standin("1.3"))
    assert rkllm.unusable() is None
    assert makeBackend(None).name == "rkllm"
    assert backendMakers()[0].name == "rkllm"


@needsCompiler
def test_library_for_another_machine_is_not_taken(elsewhere, monkeypatch, tmp_path):
    data = bytearray(Path(standin("1.3")).read_bytes())
    data[18:20] = struct.pack("<H", 243)
    (tmp_path / "foreign.so").write_bytes(data)
    monkeypatch.setenv("RKLLM_LIBRARY", str(tmp_path / "foreign.so"))
    assert "foreign.so: it is for riscv64, and this Python is for" in rkllm.unusable()
    with pytest.raises(ValueError, match=r"foreign\.so: it is for riscv64, and this Python is for"):
        makeBackend(f"rkllm:library={tmp_path}/foreign.so")


def test_library_that_is_none_is_not_taken(elsewhere, monkeypatch, tmp_path):
    (tmp_path / "wrong.so").write_text("hello")
    monkeypatch.setenv("RKLLM_LIBRARY", str(tmp_path / "wrong.so"))
    assert rkllm.unusable() == f"{tmp_path}/wrong.so: not an ELF file"


# A daemon that goes to work in another directory than it was started in


@pytest.fixture
def started(elsewhere, monkeypatch, tmp_path):
    """A function that gives the backend of a description, read in a directory with a library that is left then."""

    def started(description="rkllm:library=librkllmrt.so"):
        shutil.copy(standin("1.3"), tmp_path / "librkllmrt.so")
        monkeypatch.chdir(tmp_path)
        runtime = makeBackend(description)
        isolated = IsolatedBackend(runtime, description, reactor, Limits())
        monkeypatch.chdir("/")
        return runtime, isolated

    return started


@pytest.fixture
def param(library):
    """A function that gives parameters that load a model of the stand-in."""
    return lambda backend: structs.replace(backend.createDefaultParam(), model_path=library.model)


@needsCompiler
def test_relative_library_is_found_in_this_process(started, param):
    runtime, _ = started()
    runtime.init(param(runtime)).destroy()


@needsCompiler
@pytest_twisted.ensureDeferred
async def test_relative_library_is_found_by_a_child(started, param):
    _, isolated = started()
    model = await isolated.init(param(isolated))
    await model.destroy()


@needsCompiler
@pytest_twisted.ensureDeferred
async def test_relative_library_of_the_environment_is_found_by_a_child(started, param, monkeypatch):
    monkeypatch.setenv("RKLLM_LIBRARY", "librkllmrt.so")
    _, isolated = started("rkllm")
    model = await isolated.init(param(isolated))
    await model.destroy()


def test_description_with_the_path_keeps_what_else_it_says(elsewhere, monkeypatch, tmp_path):
    strange = tmp_path / r"a:b\c"
    strange.mkdir()
    path = put(strange)
    monkeypatch.chdir(strange)
    assert located("rkllm:library=librkllmrt.so:abi=1.3") == (
        "rkllm:library=" + path.replace("\\", r"\\").replace(":", r"\:") + ":abi=1.3"
    )

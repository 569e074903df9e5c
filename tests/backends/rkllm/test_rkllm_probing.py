"""The default parameters of libraries that do anything when they are opened."""

import subprocess
from pathlib import Path

from rkllm_twisted.backends.rkllm import probing
from rkllm_twisted.backends.rkllm.detection import detect
from rkllm_twisted.backends.rkllm.families import FAMILIES
from tests.backends.rkllm.exports import FROM_1_2_1, evidence
from tests.native.build import buildStandin
from tests.standins import needsCompiler, standin

pytestmark = needsCompiler


def probed(path, **arguments):
    found, families = probing.probe(path, **arguments)
    assert families == tuple(FAMILIES)  # it says nothing
    return found


def test_probe_of_a_library_that_crashes(compileLibrary):
    crash = "void *rkllm_createDefaultParam(void) { __builtin_trap(); }"
    assert "ended by signal" in probed(compileLibrary(FROM_1_2_1, code=crash))


def test_probe_of_a_library_that_hangs(compileLibrary):
    hang = "void *rkllm_createDefaultParam(void) { for (;;) ; }"
    assert probed(compileLibrary(FROM_1_2_1, code=hang), seconds=1) == "nothing: it did not answer within 1 s"


def test_probe_of_a_library_that_cannot_be_opened(compileLibrary):
    assert "it cannot be opened" in probed(compileLibrary(FROM_1_2_1))  # no rkllm_createDefaultParam


def test_probe_of_other_defaults(compileLibrary):
    other = (
        "struct room { char bytes[184]; }; struct room rkllm_createDefaultParam(void) { return (struct room){{7}}; }"
    )
    assert "not the documented ones" in probed(compileLibrary(FROM_1_2_1, code=other))


def test_probe_of_a_bare_name(tmp_path, monkeypatch):
    """The loader would look for it where libraries usually are, and open another one, or none."""
    monkeypatch.chdir(Path(standin("1.3")).parent)
    assert evidence(detect("librkllmrt.so"), "probe").families == ("1.3", "1.3.1")


def test_probe_of_a_library_that_prints(tmp_path, monkeypatch):
    path = str(buildStandin("1.2.1", tmp_path))
    code = '#include <stdio.h>\n__attribute__((constructor)) void a(void) { puts("hello"); }'
    code += '\n__attribute__((destructor)) void b(void) { puts("bye"); }\n'
    source, noisy = tmp_path / "noisy.c", tmp_path / "noisy.so"
    source.write_text(code)
    subprocess.run(
        ["cc", "-shared", "-fPIC", str(source), "-Wl,--no-as-needed", path, "-o", str(noisy), "-Wl,-rpath,$ORIGIN"],
        check=True,
    )
    assert probing.probe(str(noisy))[1] == ("1.2.0", "1.2.1b1", "1.2.1")

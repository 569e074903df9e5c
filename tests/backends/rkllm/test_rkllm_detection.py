"""Which family a file is of: files of our own making, and the stand-in of every family."""

import hashlib
import json
import os
import platform
import re
import subprocess
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from rkllm_twisted.backends import rkllm
from rkllm_twisted.backends.rkllm import detection, opening
from rkllm_twisted.backends.rkllm.detection import Evidence, Finding, Undecided, choose, detect
from rkllm_twisted.backends.rkllm.families import FAMILIES
from rkllm_twisted.backends.rkllm.library import LibraryUnusable
from rkllm_twisted.backends.rkllm.releases import RELEASES, Release
from rkllm_twisted.errors import ModelLoadFailed
from tests.backends.rkllm.exports import BASE, FROM_1_1, FROM_1_2_0, FROM_1_2_1, evidence
from tests.native.build import buildStandin
from tests.standins import everyFamily, needsCompiler, standin

pytestmark = needsCompiler


# The stand-ins: all sources agree


@everyFamily
def test_library_that_says_its_version(key):
    finding = detect(standin(key))
    assert (finding.family, finding.problem) == (key, None)
    assert finding.version in FAMILIES[key].releases
    assert [each.source for each in finding.evidence] == ["hash", "text", "symbols", "probe"]
    assert all(key in each.families for each in finding.evidence)
    assert evidence(finding, "text").families == (key,)


PROBED = {
    "1.1": ("1.1",),
    "1.2.0": ("1.2.0", "1.2.1b1"),
    "1.2.1b1": ("1.2.0", "1.2.1b1"),
    "1.2.1": ("1.2.0", "1.2.1b1", "1.2.1"),
    "1.3": ("1.3", "1.3.1"),
    "1.3.1": ("1.3", "1.3.1"),
}


@everyFamily
def test_default_parameters_tell_the_layout(key):
    assert evidence(detect(standin(key)), "probe").families == PROBED[key]


@pytest.mark.parametrize("version", [release.version for release in RELEASES if release.family])
def test_every_release_has_its_family(version, compileLibrary):
    """By its text; what the exports then say must fit."""
    family = next(release.family for release in RELEASES if release.version == version)
    exports = {"1.1": FROM_1_1, "1.2.0": FROM_1_2_0, "1.2.1b1": FROM_1_2_0}.get(family, FROM_1_2_1)
    finding = detect(compileLibrary(exports, version), probe=False)
    assert (finding.family, finding.version) == (family, version)


# The hash


def test_vendors_file_is_known_by_its_hash(compileLibrary, monkeypatch):
    """As git names a blob. It needs no text then."""
    path = compileLibrary(FROM_1_2_1)
    blob = subprocess.run(["git", "hash-object", path], capture_output=True, text=True, check=True).stdout.strip()
    assert detect(path, probe=False).family is None
    monkeypatch.setattr(detection, "RELEASES", (Release("1.2.2", "1.2.1", "", {"linux-aarch64": blob}),))
    finding = detect(path, probe=False)
    assert (finding.family, finding.version, finding.problem) == ("1.2.1", "1.2.2", None)
    assert evidence(finding, "hash") == Evidence("hash", "the vendor's file of release 1.2.2", ("1.2.1",))


def test_vendors_file_is_known_by_its_sha256(compileLibrary, monkeypatch):
    path = compileLibrary(FROM_1_2_1)
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    monkeypatch.setattr(detection, "RELEASES", (Release("1.3.1", "1.3.1", "", {}, {"linux-aarch64": digest}),))
    assert (detect(path, probe=False).family, detect(path, probe=False).version) == ("1.3.1", "1.3.1")


def test_vendors_file_of_a_release_that_is_too_old(compileLibrary, monkeypatch):
    path = compileLibrary(BASE)
    blob = subprocess.run(["git", "hash-object", path], capture_output=True, text=True, check=True).stdout.strip()
    monkeypatch.setattr(detection, "RELEASES", (Release("1.0.1", None, "", {"linux-aarch64": blob}),))
    finding = detect(path, probe=False)
    assert (finding.family, finding.version) == (None, "1.0.1")
    assert finding.problem.startswith("its hash (the vendor's file of release 1.0.1) fits none of the releases")


def test_hashes_are_whole_and_none_stands_twice():
    blobs = [blob for release in RELEASES for blob in release.blobs.values()]
    assert len(blobs) == len(set(blobs)) == 36
    assert {len(blob) for blob in blobs} == {40}
    assert {len(digest) for release in RELEASES for digest in release.sha256.values()} == {64}
    assert {len(release.commit) for release in RELEASES} == {40}


# Symbols


@pytest.mark.parametrize(
    ("exports", "families"),
    [
        (FROM_1_1, ("1.1",)),
        (FROM_1_2_0, ("1.2.0", "1.2.1b1")),
        (FROM_1_2_1, ("1.2.1", "1.3", "1.3.1")),
    ],
)
def test_exports_alone(exports, families, compileLibrary):
    finding = detect(compileLibrary(exports), probe=False)
    assert evidence(finding, "symbols").families == families
    if len(families) == 1:
        assert finding.family == families[0]
    else:
        assert finding.family is None
        assert f"its family may be {' or '.join(families)} by its hash" in finding.problem
        assert f"--backend rkllm:abi={families[-1]}" in finding.problem


def test_name_that_is_only_used_is_no_export(compileLibrary):
    code = "int rkllm_set_chat_template(void); int other(void) { return rkllm_set_chat_template(); }"
    finding = detect(compileLibrary(FROM_1_1, code=code), probe=False)
    assert finding.family == "1.1"


# What is refused


def test_contradiction_of_text_and_exports(compileLibrary):
    finding = detect(compileLibrary(FROM_1_2_0, "1.3.0"), probe=False)
    assert finding.family is None
    assert finding.problem == (
        "its text (version 1.3.0) and its symbols (no rkllm_set_function_tools) contradict each other, "
        "so it is not used"
    )
    with pytest.raises(Undecided, match="contradict each other"):
        choose(finding, None)


def test_contradiction_of_text_and_default_parameters(tmp_path):
    """A 1.3 library that calls itself 1.2.3: that is the pair that crashes."""
    path = str(buildStandin("1.3", tmp_path, '-DSTANDIN_VERSION="1.2.3"'))
    assert detect(path, probe=False).family == "1.2.1"
    finding = detect(path)
    assert finding.family is None
    assert (
        "its text (version 1.2.3) and its probe (the documented defaults where 1.3 or 1.3.1 has them)"
        in finding.problem
    )
    with pytest.raises(LibraryUnusable, match=r"^librkllmrt\.so: its text .* contradict each other") as unusable:
        opening.openOnce(path, FAMILIES["1.2.1"], None)
    assert str(tmp_path) not in str(unusable.value)  # a client gets this
    with pytest.raises(LibraryUnusable, match=r"abi=1.2.1 contradicts its probe"):
        opening.openOnce(path, FAMILIES["1.2.1"], "1.2.1")


def test_default_parameters_decide_nothing(tmp_path):
    """They would leave one family of three; but that they tell it was tried on no board."""
    finding = detect(str(buildStandin("1.2.1", tmp_path, '-DSTANDIN_VERSION="a secret"')))
    assert evidence(finding, "text").found == "no version"
    assert evidence(finding, "probe").families == PROBED["1.2.1"]
    assert finding.family is None
    assert "its family may be 1.2.1 or 1.3 or 1.3.1 by its" in finding.problem


def test_library_that_is_replaced_while_the_daemon_runs(tmp_path):
    path = str(buildStandin("1.2.1", tmp_path))
    family = choose(detect(path, probe=False), None)
    buildStandin("1.3", tmp_path)
    with pytest.raises(LibraryUnusable, match=r"was of family 1\.2\.1 when the daemon was started and is now of 1\.3"):
        opening.openOnce(path, family, None)


def test_contradiction_of_two_texts(compileLibrary):
    finding = detect(compileLibrary(FROM_1_2_1, "1.3.0", "1.2.3"), probe=False)
    assert finding.family is None
    assert "its family may be 1.2.1 or 1.3 by its" in finding.problem
    assert "text (version 1.2.3 and 1.3.0)" in finding.problem
    assert finding.version is None


def test_text_of_a_version_that_is_not_known_beside_one_that_is(compileLibrary):
    finding = detect(compileLibrary(FROM_1_2_1, "1.3.0", "1.4.0"), probe=False)
    assert finding.family is None
    assert "its text (version 1.3.0 and 1.4.0) fits none of the releases that can be used" in finding.problem


@pytest.mark.parametrize("version", ["1.4.0", "1.3.0b1", "1.0.1", "1.2"])
def test_version_that_is_not_known(version, compileLibrary):
    finding = detect(compileLibrary(FROM_1_2_1, version), probe=False)
    assert (finding.family, finding.version) == (None, version)
    assert f"its text (version {version}) fits none of the releases that can be used, 1.1.0, 1.1.1" in finding.problem
    assert choose(finding, "1.3.1").key == "1.3.1"  # whoever knows better may say it


def test_runtime_before_1_1(compileLibrary):
    finding = detect(compileLibrary(BASE), probe=False)
    assert "its symbols (no rkllm_run_async) fits none" in finding.problem


# What somebody says


def test_family_that_is_said(compileLibrary):
    finding = detect(compileLibrary(FROM_1_2_1), probe=False)
    assert choose(finding, "1.3").key == "1.3"
    for abi, said in (
        ("1.2.0", r"abi=1.2.0 contradicts its symbols"),
        ("1.9", r"abi should be one of 1.1, .*got '1.9'"),
    ):
        with pytest.raises(Undecided, match=said):
            choose(finding, abi)


def test_nobody_can_say_what_is_no_library(tmp_path):
    with pytest.raises(Undecided, match="cannot be read"):
        choose(detect(str(tmp_path / "missing")), "1.3")


# Any file


def test_file_that_is_no_library(tmp_path):
    (tmp_path / "text").write_text("not a library")
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    cases = {
        tmp_path / "missing": "it cannot be read: No such file or directory",
        tmp_path: "it cannot be read: Is a directory",
        tmp_path / "pipe": "it is not a file",
        Path("/dev/zero"): "it is not a file",
        tmp_path / "text": "not an ELF file",
        tmp_path / "empty": "not an ELF file",
    }
    for path, problem in cases.items():
        assert detect(str(path)) == Finding(str(path), None, None, [], problem)


def test_library_that_is_no_runtime(compileLibrary):
    path, problem = compileLibrary(["something_else"]), "it exports no rkllm_init, so it is not an RKLLM runtime"
    assert detect(path) == Finding(path, None, None, [], problem, platform.machine())


def test_file_that_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(detection, "_LARGEST", 2**20)
    (tmp_path / "model").write_bytes(b"\x7fELF" + bytes(2**20))
    assert detect(str(tmp_path / "model")).problem == "too large for a library: more than 1 MB"


# The backend


def test_backend_of_a_family_that_is_said(compileLibrary):
    path = compileLibrary(FROM_1_2_1)
    with pytest.raises(ValueError, match=r"its family may be 1\.2\.1 or 1\.3 or 1\.3\.1"):
        rkllm.makeBackend({"library": path})
    runtime = rkllm.makeBackend({"library": path, "abi": "1.3"})
    assert (runtime.name, runtime.family.key) == ("rkllm", "1.3")
    assert runtime.capabilities == FAMILIES["1.3"].capabilities


@pytest.mark.parametrize(
    ("exports", "code", "said"),
    [
        (FROM_1_2_1, "", r"^librkllmrt-0\.so has no rkllm_clear_kv_cache, which its family has$"),
        (
            FROM_1_2_1,
            "int missing(void); int other(void) { return missing(); }",
            r"^librkllmrt-0\.so cannot be opened: .*missing",
        ),
    ],
)
def test_library_that_cannot_be_used(exports, code, said, compileLibrary, tmp_path):
    """It is found when the first model is loaded; a client is told, without the place of the file."""
    path = compileLibrary(exports, "1.3.0", code=code)
    (tmp_path / "model.rkllm").write_text("x")
    runtime = rkllm.makeBackend({"library": path})
    with pytest.raises(ModelLoadFailed) as failed:
        runtime.init(structs.replace(runtime.createDefaultParam(), model_path=str(tmp_path / "model.rkllm")))
    assert re.search(said, failed.value.detail)
    assert str(tmp_path) not in failed.value.detail


def test_finding_as_json(compileLibrary):
    finding = detect(compileLibrary(FROM_1_1), probe=False)
    assert msgspec.convert(json.loads(msgspec.json.encode(finding)), Finding) == finding
    assert isinstance(finding.evidence[0], Evidence)

"""Which family a library file is of, decided before any of its functions is called.

A wrong family does not fail, it crashes: 1.2 declarations on a 1.3 library give an init that returns 0 and a
segmentation fault in the first run (airockchip/rknn-llm issue 509). No function tells the version, so that the file is
asked:

1. its hash, which is that of a file of the vendor's repository, or not;
2. the text ``RKLLM SDK (version: 1.2.1b1 | target: …`` in it (seen by third parties in 1.2.0, 1.2.1b1 and 1.3.1);
3. the functions that it exports, which tell 1.1 from 1.2.0 from 1.2.1, and not 1.2.1 from 1.3;
4. the shape of its default parameters (`probing`), which decides nothing and may contradict.

What they say together is one family, or a problem in words. Nothing is guessed.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path

from msgspec import Struct

from rkllm_twisted.backends.rkllm import probing
from rkllm_twisted.backends.rkllm.elf import NotALibrary, SharedObject, machineIn, readSharedObject
from rkllm_twisted.backends.rkllm.families import FAMILIES, Family
from rkllm_twisted.backends.rkllm.releases import RELEASES, Release

EVERY = tuple(FAMILIES)
_TEXT = re.compile(rb"RKLLM SDK \(version: ([\x21-\x7b\x7d\x7e]{1,32}) \| target: ")
_LARGEST = 2**28
"""In bytes. The vendor's files have 7 MB; this keeps a model file that is given by mistake out of memory."""


class Evidence(Struct, frozen=True):
    """What one source says.

    Attributes:
        source: "hash", "text", "symbols" or "probe".
        found: What was found, in words.
        families: The keys of the families that it is compatible with; all of them where it says nothing.
    """

    source: str
    found: str
    families: tuple[str, ...]


class Finding(Struct, frozen=True):
    """What is known of a file.

    Attributes:
        path: The file.
        family: The key of its family; None if that cannot be said.
        version: Its version, where the hash or the text tells.
        evidence: What each source says, the most trusted first.
        problem: Why there is no family and what to do about it, in one sentence.
        machine: Whom it is for, as ``uname -m`` says it; None if it is no program or library at all.
    """

    path: str
    family: str | None
    version: str | None
    evidence: list[Evidence]
    problem: str | None
    machine: str | None = None


class Undecided(ValueError):
    """The family is not known, or is not the one that was asked for. The message says what was found."""


def detect(path: str, probe: bool = True) -> Finding:
    """Find out the family of a library.

    Args:
        path: The file. Anything may be in it, or it may not be there: that is a problem, not an exception.
        probe: Whether to look at the default parameters too, which opens the library in a child process. Takes 0.2 s
            on a machine that can run the library, and is not done on others.
    """
    data = b""
    try:
        data = _contents(Path(path))
        library = readSharedObject(data)
    except OSError as error:
        return _problem(path, f"it cannot be read: {error.strerror}")
    except NotALibrary as reason:
        return _problem(path, str(reason), machineIn(data))
    if "rkllm_init" not in library.exports:
        return _problem(path, "it exports no rkllm_init, so it is not an RKLLM runtime", library.machine)
    release = _releaseOf(data)
    versions = sorted({version.decode("ascii") for version in _TEXT.findall(data)})
    evidence = [_hashed(data, release), _told(versions), _exported(library)]
    if probe and library.fitsThisMachine:
        evidence.append(Evidence("probe", *probing.probe(path)))
    version = release.version if release else versions[0] if len(versions) == 1 else None
    family, problem = _concluded(evidence)
    return Finding(path, family, version, evidence, problem, library.machine)


def choose(finding: Finding, abi: str | None) -> Family:
    """The family to use for a library.

    Args:
        finding: What is known of it.
        abi: The key of the family that somebody says it is of; None leaves it to the finding.

    Raises:
        Undecided: The finding has no family and nobody says it, or it contradicts what is said.
    """
    if abi is None:
        if finding.family is None:
            raise Undecided(f"{finding.path}: {finding.problem}")
        return FAMILIES[finding.family]
    if abi not in FAMILIES:
        raise Undecided(f"abi should be one of {', '.join(EVERY)}, got {abi!r}")
    for each in finding.evidence:
        if each.families and abi not in each.families:
            raise Undecided(f"{finding.path}: abi={abi} contradicts its {_worded(each)}")
    if not finding.evidence:
        raise Undecided(f"{finding.path}: {finding.problem}")
    return FAMILIES[abi]


def _contents(path: Path) -> bytes:
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:  # or a pipe waits
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise NotALibrary("it is not a file")
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise NotALibrary(f"too large for a library: more than {_LARGEST >> 20} MB")
    return data


def _problem(path: str, problem: str, machine: str | None = None) -> Finding:
    return Finding(path, None, None, [], problem, machine)


def _releaseOf(data: bytes) -> Release | None:
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    sha256 = hashlib.sha256(data).hexdigest()
    return next(
        (each for each in RELEASES if blob in each.blobs.values() or sha256 in each.sha256.values()),
        None,
    )


def _hashed(data: bytes, release: Release | None) -> Evidence:
    if release is None:
        return Evidence("hash", "not a file that is known from the vendor's repository", EVERY)
    return Evidence("hash", f"the vendor's file of release {release.version}", _familiesOf(release.version))


def _told(versions: list[str]) -> Evidence:
    if not versions:
        return Evidence("text", "no version", EVERY)
    each = [_familiesOf(version) for version in versions]
    families = {family for known in each for family in known} if all(each) else set()  # one unknown may be the true one
    return Evidence("text", f"version {' and '.join(versions)}", tuple(key for key in EVERY if key in families))


def _familiesOf(version: str) -> tuple[str, ...]:
    """None for a version that is older than what can be used, or not known."""
    return tuple(each.family for each in RELEASES if each.version == version and each.family)


def _exported(library: SharedObject) -> Evidence:
    """The functions that came with 1.1, 1.2.0 and 1.2.1; 1.3 brought none."""
    steps = (
        ("rkllm_run_async", ()),
        ("rkllm_set_chat_template", ("1.1",)),
        ("rkllm_set_function_tools", ("1.2.0", "1.2.1b1")),
    )
    for name, families in steps:
        if name not in library.exports:
            return Evidence("symbols", f"no {name}", families)
    return Evidence("symbols", f"{steps[-1][0]} and what came before it", ("1.2.1", "1.3", "1.3.1"))


def _concluded(evidence: list[Evidence]) -> tuple[str | None, str | None]:
    """The family, or what keeps it from being one."""
    problem = _unusableVersion(evidence) or _contradiction(evidence)
    deciding = [set(each.families) for each in evidence if each.source != "probe"]
    left = [key for key in EVERY if all(key in families for families in deciding)]
    if problem is None and len(left) > 1:
        problem = (
            f"its family may be {' or '.join(left)} by its {', '.join(map(_worded, evidence))}; if you know the "
            f"release, say its family, such as --backend rkllm:abi={left[-1]}"
        )
    return (None, problem) if problem else (left[0], None)


def _unusableVersion(evidence: list[Evidence]) -> str | None:
    """What a source says that fits no family."""
    known = ", ".join(release for family in FAMILIES.values() for release in family.releases)
    for each in evidence:
        if not each.families:
            return (
                f"its {_worded(each)} fits none of the releases that can be used, {known}; if you know that its "
                f"rkllm.h has the structs of one of them, say its family, such as --backend rkllm:abi={EVERY[-1]}"
            )
    return None


def _contradiction(evidence: list[Evidence]) -> str | None:
    for index, one in enumerate(evidence):
        for other in evidence[index + 1 :]:
            if not set(one.families) & set(other.families):
                return f"its {_worded(one)} and its {_worded(other)} contradict each other, so it is not used"
    return None


def _worded(evidence: Evidence) -> str:
    return f"{evidence.source} ({evidence.found})"

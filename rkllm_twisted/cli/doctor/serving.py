"""All checks in order, and which backends can serve."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from shlex import quote

from msgspec import Struct

from rkllm_twisted.backends import backendMakers
from rkllm_twisted.backends.rkllm.detection import detect
from rkllm_twisted.backends.rkllm.searching import NoLibrary, findLibrary
from rkllm_twisted.cli.doctor import library, npu, resources
from rkllm_twisted.cli.doctor.findings import Finding, Report, State
from rkllm_twisted.cli.doctor.machine import Machine
from rkllm_twisted.interfaces import IBackendMaker

NPU = "rkllm"
"""The name of the NPU's backend."""


class Subject(Struct, frozen=True):
    """What is examined beside the machine itself."""

    socket: str
    """The daemon's address, as the command line has it."""
    library: str | None = None
    """Path of librkllmrt; None looks for it as the backend does."""
    model: str | None = None
    """Path or short name of a model; None for none in particular."""


def examine(machine: Machine, subject: Subject, makers: Iterable[IBackendMaker] | None = None) -> Report:
    """Look at everything. Blocks, some seconds at most where there is a library to open.

    Args:
        machine: The machine.
        subject: What else is looked at.
        makers: The backends; those installed by default.
    """
    libraries = list(_library(machine, subject.library))
    ofNPU = [*_hardware(machine), *libraries]
    common = list(_resources(machine, subject))
    backends = [
        (maker.name, maker.description, _unusable(maker, subject, libraries))
        for maker in (backendMakers() if makers is None else makers)
        if maker.preference is not None
    ]
    isFit = all(finding.isFit for finding in common)
    serves = [
        name
        for name, _, reason in backends
        if isFit
        and reason is None
        and (name != NPU or all(finding.isFit for finding in ofNPU))
        and (subject.model is None or name == resources.backendOf(subject.model))
    ]
    start = _start(serves[0], subject) if serves else None
    return Report(serves, start, [*ofNPU, *common, *(_backend(*each) for each in backends)])


def _unusable(maker: IBackendMaker, subject: Subject, libraries: Iterable[Finding]) -> str | None:
    """Why a backend cannot run; with a library that is named, that is for the checks of the library to say."""
    if maker.name != NPU or subject.library is None:
        return maker.unusable()
    return next((f"{finding.name}: {finding.found}" for finding in libraries if not finding.isFit), None)


def _start(backend: str, subject: Subject) -> str:
    if backend == NPU and subject.library is not None:
        backend += ":library=" + subject.library.replace("\\", "\\\\").replace(":", "\\:")
    return f"twistd rkllm --backend {quote(backend)} --model {quote(subject.model or 'NAME_OR_PATH')}"


def _hardware(machine: Machine) -> Iterator[Finding]:
    for check in (npu.chip, npu.driver, npu.nodes, npu.cpus):
        yield check(machine)


def _library(machine: Machine, option: str | None) -> Iterator[Finding]:
    try:
        path = findLibrary(option, machine.environ)
    except NoLibrary as reason:
        yield library.absent(str(reason), isNeeded=machine.isBoard() or option is not None)
        return
    family = library.family(path, detect)
    yield family
    if family.isFit:
        yield library.opens(path)


def _resources(machine: Machine, subject: Subject) -> Iterator[Finding]:
    if subject.model is not None:
        yield resources.model(machine, subject.model)
    yield resources.memory(machine, subject.model)
    yield resources.socket(subject.socket)
    yield resources.files(machine)


def _backend(name: str, description: str, reason: str | None) -> Finding:
    if reason is None:
        return Finding(f"backend {name}", State.OK, description)
    return Finding(f"backend {name}", State.ABSENT, reason)

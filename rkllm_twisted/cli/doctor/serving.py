"""All checks in order, and which backends can serve."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

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
    ofNPU = [*_hardware(machine), *_library(machine, subject.library)]
    common = list(_resources(machine, subject))
    backends = [
        (maker, maker.unusable())
        for maker in (backendMakers() if makers is None else makers)
        if maker.preference is not None
    ]
    canServe = [
        maker.name
        for maker, reason in backends
        if reason is None
        and (maker.name != NPU or all(finding.isFit for finding in ofNPU))
        and (subject.model is None or maker.name == resources.backendOf(subject.model))
    ]
    isFit = all(finding.isFit for finding in common)
    return Report(canServe if isFit else [], [*ofNPU, *common, *(_backend(*each) for each in backends)])


def _hardware(machine: Machine) -> Iterator[Finding]:
    for check in (npu.chip, npu.driver, npu.nodes, npu.cpus):
        yield check(machine)


def _library(machine: Machine, option: str | None) -> Iterator[Finding]:
    try:
        path = findLibrary(option, machine.environ)
    except NoLibrary as reason:
        yield library.absent(str(reason), machine.isBoard())
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


def _backend(maker: IBackendMaker, reason: str | None) -> Finding:
    name = f"backend {maker.name}"
    if reason is None:
        return Finding(name, State.OK, maker.description)
    return Finding(name, State.ABSENT, reason)

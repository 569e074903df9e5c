"""An examination of a made-up machine, with backends that are made up too."""

from __future__ import annotations

from rkllm_twisted.backends import BackendMaker
from rkllm_twisted.backends.rkllm.detection import Evidence
from rkllm_twisted.backends.rkllm.detection import Finding as Detected
from rkllm_twisted.backends.rkllm.families import FAMILIES
from rkllm_twisted.cli.doctor.findings import Finding, Report
from rkllm_twisted.cli.doctor.serving import Subject, examine
from tests.cli.doctor.machines import MadeUp

LIBRARY = "/opt/librkllmrt.so"
THE_LIBRARY = Detected(
    LIBRARY,
    "1.3",
    "1.3.0",
    [Evidence("hash", "not known", tuple(FAMILIES)), Evidence("text", "version 1.3.0", ("1.3",))],
    None,
)
WHY = f"{__name__}.why"
"""Where a maker of a backend that cannot be used finds the reason."""


def no(options: dict[str, str]) -> None:
    raise AssertionError("the doctor makes no backend")


def why() -> str:
    return "no llama.cpp here"


def maker(name: str, unusable: str | None = None, preference: int | None = 10) -> BackendMaker:
    return BackendMaker(name, f"the {name}", f"{__name__}.no", unusable, preference)


BOTH = [maker("rkllm", preference=20), maker("llamacpp"), maker("scripted", preference=None)]


def examined(machine: MadeUp, model: str | None = None, makers: list[BackendMaker] | None = None) -> Report:
    subject = Subject(machine.path("rkllm.sock"), model=model)
    return examine(machine.look(), subject, BOTH if makers is None else makers)


def states(report: Report) -> dict[str, str]:
    return {finding.name: finding.state.value for finding in report.findings}


def finding(report: Report, name: str) -> Finding:
    (one,) = (finding for finding in report.findings if finding.name == name)
    return one

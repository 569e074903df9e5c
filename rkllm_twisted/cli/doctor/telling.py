"""A report in plain words."""

from __future__ import annotations

from collections.abc import Iterator

from rkllm_twisted.cli.doctor.findings import Report, State
from rkllm_twisted.cli.doctor.resources import backendOf

MARK = "-> "
"""Before what to do."""


def reportLines(report: Report) -> Iterator[str]:
    """A line for each check, one more where there is something to do, and what it all comes to."""
    width = max(len(finding.name) for finding in report.findings)
    for finding in report.findings:
        yield f"{finding.state.value:<8} {finding.name:<{width}}  {finding.found}"
        if finding.todo:
            yield f"{'':<8} {'':<{width}}  {MARK}{finding.todo}"
    yield ""
    yield _verdict(report)


def _verdict(report: Report) -> str:
    if not report.serves:
        return "Nothing can be served here yet."
    return f"{_aboutTheNPU(report)}The backend {report.serves[0]} can serve: {report.start}"


def _aboutTheNPU(report: Report) -> str:
    """Why it does not serve, in a sentence and a space; empty if it does, or if the model is just not for it."""
    if any(finding.name == "chip" and finding.state is State.ABSENT for finding in report.findings):
        return "There is no NPU here. "
    problems = _problems(report)
    return f"The NPU cannot serve yet: {problems}. " if problems else ""


def _problems(report: Report) -> str:
    return ", ".join(finding.name for finding in report.findings if finding.state is State.PROBLEM)


def whyNot(report: Report, model: str | None) -> str:
    """What stands in the way of every backend, in a line.

    Args:
        report: What was found.
        model: The model that was asked about; None for none in particular.
    """
    if problems := _problems(report):
        reason = f"problems with: {problems}"
    else:
        reason = f"it is for the backend {backendOf(model)}" if model else "no backend is usable"
    return f"{model or 'a model'} cannot be served here: {reason}"

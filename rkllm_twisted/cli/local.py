"""The commands that need no daemon and no reactor: ``rkllm detect``, ``rkllm doctor`` and ``rkllm completion``."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from rkllm_twisted.cli.problems import BROKEN_PIPE, INTERRUPTED
from rkllm_twisted.cli.terminal import Terminal, columns

if TYPE_CHECKING:
    from rkllm_twisted.backends.rkllm import detection


def carryOut(options: Namespace, terminal: Terminal) -> int:
    """Carry out a command. Blocks until it is done.

    Args:
        options: The command line.
        terminal: Where everything is written.

    Returns:
        The exit status.
    """
    try:
        return COMMANDS[options.command](options, terminal)
    except BrokenPipeError:
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED


def detect(options: Namespace, terminal: Terminal) -> int:
    """``rkllm detect``: 0 if the family of a library was decided, else 1."""
    from rkllm_twisted.backends.rkllm.detection import detect as examine

    finding = examine(options.path, options.probe)
    _show(finding, list(detectionLines(finding)), options.json, terminal)
    if finding.family is None:
        terminal.error(f"{options.path}: {finding.problem}")
    return int(finding.family is None)


def detectionLines(finding: detection.Finding) -> Iterator[str]:
    """What was found of a library: a table of what it is, and one of what speaks for that."""
    facts = [
        ("library", finding.path),
        ("machine", finding.machine or "unknown"),
        ("family", finding.family or "not decided"),
        ("version", finding.version or "unknown"),
    ]
    yield from columns(facts)
    if finding.evidence:
        yield ""
        rows = [(one.source, _fitting(one.families), one.found) for one in finding.evidence]
        yield from columns([("evidence", "fits", "found"), *rows])


def _fitting(families: tuple[str, ...]) -> str:
    from rkllm_twisted.backends.rkllm.families import FAMILIES

    return "any" if len(families) == len(FAMILIES) else ", ".join(families) or "none"


def doctor(options: Namespace, terminal: Terminal) -> int:
    """``rkllm doctor``: 0 if some backend can serve on this machine, else 1."""
    from rkllm_twisted.cli.doctor.machine import Machine
    from rkllm_twisted.cli.doctor.serving import Subject, examine
    from rkllm_twisted.cli.doctor.telling import reportLines, whyNot

    subject = Subject(options.socket, options.library, options.model)
    report = examine(Machine(), subject)
    _show(report, list(reportLines(report)), options.json, terminal)
    if not report.serves:
        terminal.error(whyNot(report, options.model))
    return int(not report.serves)


def completion(options: Namespace, terminal: Terminal) -> int:
    """``rkllm completion``: what a shell evaluates."""
    from rkllm_twisted.cli.completion import script

    terminal.line(script(options.shell))
    return 0


def _show(result: msgspec.Struct, lines: Sequence[str], isJson: bool, terminal: Terminal) -> None:
    # By way of json, which has a spelling for a path that is not UTF-8.
    for line in [json.dumps(msgspec.to_builtins(result))] if isJson else lines:
        terminal.line(line)


COMMANDS = {"completion": completion, "detect": detect, "doctor": doctor}

"""Writes the man pages, from the parsers of the commands. A test compares them.

Usage: python scripts/manual.py
"""

from __future__ import annotations

import inspect
from argparse import Action
from collections.abc import Iterator
from pathlib import Path

from rkllm_twisted import __version__
from rkllm_twisted.cli.arguments import DEFAULT_SOCKET, parser
from rkllm_twisted.cli.completion import describe
from rkllm_twisted.tap import Options

PACKAGING = Path(__file__).parent.parent / "packaging"
STATUSES = {
    "0": "done",
    "1": "an error; one line on standard error says which. Of doctor: nothing can serve here; of detect: undecided",
    "2": "wrong usage",
    "130": "interrupted with Ctrl-C",
    "141": "the reader of the output went away",
    "143": "terminated (SIGTERM)",
}
VARIABLES = {
    "RKLLM_UDS_PATH": f"the path of the socket, if it is not {DEFAULT_SOCKET}",
    "RKLLM_LIBRARY": "the path of librkllmrt.so",
    "NO_COLOR": "no colours in what rkllm writes",
}
DAEMON_VARIABLES = {
    "RKLLM_UDS_PATH": VARIABLES["RKLLM_UDS_PATH"],
    "RKLLM_MAX_CLIENTS": "the most connections at a time",
    "RKLLM_LIBRARY": VARIABLES["RKLLM_LIBRARY"],
}


def commandPage() -> Iterator[str]:
    """rkllm(1)."""
    root = parser()
    everywhere, commands = describe(root)
    yield from head("RKLLM", "rkllm", "ask a running RKLLM daemon, or look at this machine")
    yield from (".SH SYNOPSIS", r".B rkllm", r"[\-\-socket ADDRESS] COMMAND [options]")
    yield from (".SH DESCRIPTION", quoted(root.description or ""))
    yield "The answer goes to standard output, everything else to standard error."
    yield ".SH OPTIONS"
    yield from described(everywhere, leftOut=["help"])
    yield ".SH COMMANDS"
    for command in commands:
        yield from (f".SS {command.name}", quoted(sentence(command.help)))
        yield from described(command.arguments, leftOut=["help", "socket"])
    yield from (".SH EXIT STATUS", *listed(STATUSES), ".SH ENVIRONMENT", *listed(VARIABLES))
    yield from (".SH SEE ALSO", r".BR twistd\-rkllm (1)")


def daemonPage() -> Iterator[str]:
    """twistd-rkllm(1)."""
    options = Options({})
    yield from head(r"TWISTD\-RKLLM", r"twistd\-rkllm", "the RKLLM daemon")
    yield from (".SH SYNOPSIS", ".B twistd", r"[options of twistd] \fBrkllm\fR [options]")
    yield from (".SH DESCRIPTION", quoted(options.longdesc))
    yield ".SH OPTIONS"
    for name, text in sorted({**parametersOf(options), **methodsOf(options)}.items()):
        yield from (".TP", rf"\fB\-\-{quoted(name)}\fR", quoted(text + "."))
    yield from (".SH ENVIRONMENT", *listed(DAEMON_VARIABLES))
    yield from (".SH SEE ALSO", ".BR rkllm (1),", ".BR twistd (1)")


def head(title: str, name: str, purpose: str) -> Iterator[str]:
    """The beginning of a page."""
    yield rf""".\" Written by scripts/manual.py
.TH {title} 1 "" "rkllm-twisted {__version__}"
.SH NAME
{name} \- {purpose}"""


def parametersOf(options: Options) -> dict[str, str]:
    """The options with a value, each with its default."""
    found = {}
    for name, _, default, text in options.optParameters:
        found[f"{name} VALUE"] = str(text) if default is None else f"{text} [{default}]"
    return found


def methodsOf(options: Options) -> dict[str, str]:
    """The options that a method carries out."""
    found = {}
    for name, method in inspect.getmembers(options, inspect.ismethod):
        if name.startswith("opt_") and name != "opt_l" and name != "opt_help":
            takes = " VALUE" if inspect.signature(method).parameters else ""
            text = " ".join((inspect.getdoc(method) or "").split()).rstrip(".")
            found[name.removeprefix("opt_").replace("_", "-") + takes] = text
    return found


def described(arguments: list[Action], leftOut: list[str]) -> Iterator[str]:
    """Options and other arguments, without those of some names."""
    for action in arguments:
        if action.dest not in leftOut:
            value = "" if action.nargs == 0 else str(action.metavar or action.dest)
            names = [rf"\fB{quoted(', '.join(action.option_strings))}\fR"] if action.option_strings else []
            spelled = " ".join([*names, rf"\fI{quoted(value)}\fR"] if value else names)
            yield from (".TP", spelled, quoted(sentence(helpOf(action))))


def helpOf(action: Action) -> str:
    """What an argument is, without the default that the machine of whoever writes the page gives it."""
    text = (action.help or "").split("; now ")[0].replace("%%", "%")
    return text + ")" if text.count("(") > text.count(")") else text


def listed(texts: dict[str, str]) -> Iterator[str]:
    """Names and what they mean."""
    for name, text in texts.items():
        yield from (".TP", rf"\fB{name}\fR", quoted(text))


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


def quoted(text: str) -> str:
    """Text as roff wants it."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{text}" if text.startswith((".", "'")) else text


WRITERS = {"man/rkllm.1": commandPage, "man/twistd-rkllm.1": daemonPage}

if __name__ == "__main__":
    for name, lines in WRITERS.items():
        (PACKAGING / name).write_text("\n".join(lines()) + "\n")

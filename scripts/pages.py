"""Writes pages of docs/reference that come from the code: error codes, transcripts, the command. A test compares them.

Usage: python -m scripts.pages
"""

from __future__ import annotations

import inspect
import re
from argparse import Action
from collections.abc import Iterator
from pathlib import Path

from rkllm_twisted import errors
from rkllm_twisted.cli.arguments import parser
from rkllm_twisted.cli.completion import describe
from scripts.manual import STATUSES, VARIABLES, helpOf, sentence

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs/reference"
ERRORS = """# Error codes

What a client may be told. **Generated** by `scripts/pages.py` from `rkllm_twisted.errors`. `error.message` begins
with the message in the heading; `error.data`, where there is any, has `retryable`, which says whether the same
request may succeed later with nothing changed, and the fields that [the contract](wire.md) lists. A client in
Python gets the class.
"""
TRANSCRIPTS = """# Transcripts of the rules

Conversations with the daemon. **Generated** by `scripts/pages.py` from `tests/transcripts`;
`tests/test_transcripts.py` plays each, line by line, with the backend in memory. `-->` is sent by a client and
`<--` comes back, `~~~` lets seconds pass, a letter before an arrow is another client; [the rest of the
notation](../../tests/transcripts/README.md).
"""
COMMAND = """# The command `rkllm`

Asks a daemon, or looks at this machine. **Generated** by `scripts/pages.py` from the parser of the command, which shows
the same with `--help`. Answers go to standard output, everything else to standard error. The options of the daemon,
`twistd rkllm`, are on [a page of their own](options.md).
"""
DO = {
    -32700: "Send one JSON document a line, in UTF-8.",
    -32600: "Look at the detail: no request, an id in flight, or a line that was too long or did not end in time.",
    -32601: "`rpc.discover` lists the methods.",
    -32602: "Mend the value at that place; [the methods](methods.md) say what each takes.",
    -32603: "Look into the daemon's log, and report it.",
    -32000: "Call it, or start the daemon with `--model`.",
    -32001: "Ask again after a moment, and longer after each time. `--max-queue` and `--max-clients` are the limits.",
    -32002: "Ask with more time, or when less goes on. It was the request's own `deadline`, or `--queue-timeout`.",
    -32003: "Connect again: the daemon is stopping.",
    -32004: "Look into the daemon's log, where what the runtime printed is.",
    -32005: "`rkllm doctor --model PATH` looks at the file ([what is wrong](../howto/troubleshooting.md)).",
    -32006: "With `restarting` true ask again, the model comes back by itself; else call `rkllm.init`. With "
    "`history_lost` true send what was said before once more.",
    -32007: "Ask the operator: it is `--model-root`, `--methods`, `--allow-uid` or `--allow-gid`.",
    -32008: "Do without it, or take the backend, model or release that `needs` names.",
    -32009: 'Ask for `"rows": "last"` or `"tensors": "base64"`, or for less at a time. `--max-reply` is the limit.',
    -32010: "Shorten the prompt, or load the model with a larger `max_context_len`.",
    -32011: 'Read faster, or ask for `"stream": "whole"`. `--max-backlog` is the limit.',
    -32800: "Nothing: somebody wanted it so. After the first data line it is a finish line instead, of reason abort.",
}
"""What to do about each code."""
RULE = re.compile(r"\bW-[A-Z0-9]+\b")


def errorsPage() -> Iterator[str]:
    """Each class that has a code of its own."""
    yield from ERRORS.splitlines()
    for kind in sorted(kinds(), key=lambda kind: -kind.code):
        summary, _, rest = (inspect.getdoc(kind) or "").partition("\n\n")
        yield from ("", f"## {kind.code} {summary}", "")
        yield f"`{kind.__name__}`, {'may succeed later' if kind.retryable else 'fails again'}."
        if rest:
            yield from ("", *(line.replace("``", "`").replace("`interfaces.", "`") for line in rest.splitlines()))
        yield from ("", f"**What to do**: {DO[kind.code]}")


def kinds() -> list[type[errors.RKLLMError]]:
    """The classes, without those that share the code of their parent."""
    found = [each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, errors.RKLLMError)]
    return [each for each in found if "code" in vars(each) and each.code != 0]


def transcriptsPage() -> Iterator[str]:
    """Each rule with the transcripts that show it, and each transcript."""
    yield from TRANSCRIPTS.splitlines()
    paths = sorted((ROOT / "tests/transcripts").glob("*.txt"))
    shown = {path: rulesOf(path) for path in paths}
    yield from ("", "| rule | shown by |", "|---|---|")
    for rule in dict.fromkeys(re.findall(r"\*\*(W-[A-Z0-9]+)\*\*", (PAGES / "wire.md").read_text())):
        links = [f"[{path.stem}](#{path.stem})" for path in paths if rule in shown[path]]
        yield f"| {rule} | {', '.join(links) or 'tests only'} |"
    for path in paths:
        place = f"../../tests/transcripts/{path.name}"
        yield from ("", f"## {path.stem}", "", f"[{path.name}]({place}):", "")
        yield from (f"```{{literalinclude}} {place}", ":language: transcript", "```")


def rulesOf(path: Path) -> set[str]:
    """The rules that a transcript says it shows."""
    lines = path.read_text().splitlines()
    return {rule for line in lines if line.startswith("# Rules:") for rule in RULE.findall(line)}


def commandPage() -> Iterator[str]:
    """Each command with what it takes."""
    yield from COMMAND.splitlines()
    everywhere, commands = describe(parser())
    yield from ("", "Of every command but `detect` and `completion`:", "", *argumentsTable(everywhere, ["help"]))
    for command in commands:
        yield from ("", f"## `rkllm {command.name}`", "", sentence(command.help))
        if table := list(argumentsTable(command.arguments, ["help", "socket"])):
            yield from ("", *table)
    for title, first, texts in (("Exit status", "status", STATUSES), ("Environment", "variable", VARIABLES)):
        yield from ("", f"## {title}", "", f"| {first} | what it is |", "|---|---|")
        yield from (f"| `{name}` | {text} |" for name, text in texts.items())


def argumentsTable(actions: list[Action], leftOut: list[str]) -> Iterator[str]:
    """Options and arguments, each with what it is, without those of some names."""
    shown = [action for action in actions if action.dest not in leftOut]
    if shown:
        yield from ("| argument | what it is |", "|---|---|")
    for action in shown:
        value = "" if action.nargs == 0 else str(action.metavar or action.dest)
        spelled = " ".join(filter(None, (", ".join(action.option_strings), value)))
        yield f"| `{spelled}` | {helpOf(action)} |"


WRITERS = {"errors.md": errorsPage, "transcripts.md": transcriptsPage, "command.md": commandPage}

if __name__ == "__main__":
    for name, lines in WRITERS.items():
        (PAGES / name).write_text("\n".join(lines()) + "\n")

"""What the command line says."""

from __future__ import annotations

import os
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, TypeVar

from rkllm_twisted._version import __version__

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    Commands = _SubParsersAction[ArgumentParser]

DEFAULT_SOCKET = "/tmp/rkllm.sock"
FILES = ("ADDRESS", "NAME_OR_PATH", "PATH")
"""What stands for the value of an option that may be the path of a file."""
Number = TypeVar("Number", int, float)


def parse(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> Namespace:
    """Read the command line.

    Args:
        argv: The arguments; None for those of the process.
        environ: The environment; ``RKLLM_UDS_PATH`` is the default of ``--socket``.

    Raises:
        SystemExit: After ``--help`` and ``--version`` (0), or with a line on standard error (2).
    """
    return parser(environ.get("RKLLM_UDS_PATH") or DEFAULT_SOCKET).parse_args(argv)


def parser(socket: str = DEFAULT_SOCKET) -> ArgumentParser:
    """The parser of the command line, with the default of ``--socket``."""
    description = "Ask a running RKLLM daemon (twistd rkllm), or see whether this machine can run one."
    command = ArgumentParser(prog="rkllm", description=description)
    command.add_argument("--version", action="version", version=f"rkllm {__version__}")
    _addSocket(command, socket)
    # Given before or after the command; where it is not given there, the one before must not be overwritten.
    everywhere = ArgumentParser(add_help=False)
    _addSocket(everywhere, SUPPRESS, shown=socket)
    commands = command.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in (_addRun, _addChat, _addStatus, _addCall, _addDoctor):
        add(commands, everywhere)
    _addDetect(commands)
    _addCompletion(commands)
    return command


def _addSocket(parser: ArgumentParser, default: str, shown: str | None = None) -> None:
    parser.add_argument(
        "--socket",
        metavar="ADDRESS",
        default=default,
        help="path of the daemon's socket, or a client endpoint string such as unix:/run/rkllm.sock "
        f"(default: $RKLLM_UDS_PATH, else {DEFAULT_SOCKET}; now {(shown or default).replace('%', '%%')})",
    )


def _addRun(commands: Commands, everywhere: ArgumentParser) -> None:
    run = commands.add_parser("run", parents=[everywhere], help="answer one prompt")
    run.add_argument("prompt", nargs="?", help="the prompt; - or nothing reads it from standard input")
    _addGeneration(run)
    run.add_argument("--json", action="store_true", help="print each result line as JSON instead of the text")


def _addChat(commands: Commands, everywhere: ArgumentParser) -> None:
    _addGeneration(commands.add_parser("chat", parents=[everywhere], help="talk, turn by turn"))


def _addGeneration(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        metavar="NAME_OR_PATH",
        help="load this model if the daemon has none loaded; one that is loaded already is kept",
    )
    parser.add_argument("--max-new-tokens", type=_count, metavar="N", help="the longest answer, in tokens")
    parser.add_argument("--temperature", type=_temperature, metavar="X", help="0 always takes the likeliest token")
    parser.add_argument("--top-k", type=_count, metavar="N", help="choose among the N likeliest tokens")
    parser.add_argument("--top-p", type=_share, metavar="X", help="choose among the likeliest tokens that add up to X")
    parser.add_argument("--stats", action="store_true", help="print the figures of the run on standard error")


def _addStatus(commands: Commands, everywhere: ArgumentParser) -> None:
    status = commands.add_parser("status", parents=[everywhere], help="say how the daemon is")
    status.add_argument("--json", action="store_true", help="as JSON")


def _addCall(commands: Commands, everywhere: ArgumentParser) -> None:
    call = commands.add_parser("call", parents=[everywhere], help="call any method, print each result line as JSON")
    call.add_argument("method", metavar="METHOD", help="its name on the wire, such as rkllm.get_constants")
    call.add_argument("params", metavar="JSON", nargs="?", help="its params; - reads them from standard input")


def _addDoctor(commands: Commands, everywhere: ArgumentParser) -> None:
    doctor = commands.add_parser("doctor", parents=[everywhere], help="say what this machine lacks to serve a model")
    doctor.add_argument("--model", metavar="NAME_OR_PATH", help="look at this model, too: is there room, which backend")
    doctor.add_argument(
        "--library", metavar="PATH", help="the NPU's library (default: $RKLLM_LIBRARY, else the usual directories)"
    )
    doctor.add_argument("--json", action="store_true", help="as JSON")


def _addDetect(commands: Commands) -> None:
    detect = commands.add_parser("detect", help="say which release of librkllmrt a file is, and for which machine")
    detect.add_argument("path", metavar="PATH", help="the library")
    detect.add_argument("--no-probe", action="store_false", dest="probe", help="only read the file, do not open it")
    detect.add_argument("--json", action="store_true", help="as JSON")


def _addCompletion(commands: Commands) -> None:
    completion = commands.add_parser("completion", help="write what makes a shell complete this command")
    completion.add_argument("shell", choices=("bash", "zsh"), help="the shell, which evaluates it")


def _number(text: str, kind: Callable[[str], Number], fits: Callable[[Number], bool], expected: str) -> Number:
    try:
        if fits(number := kind(text)):
            return number
    except ValueError:
        pass
    raise ArgumentTypeError(f"expected {expected}, got {text!r}")


def _count(text: str) -> int:
    return _number(text, int, lambda number: 1 <= number < 2**31, "a whole number of 1 or more")


def _temperature(text: str) -> float:
    return _number(text, float, lambda number: isfinite(number) and number >= 0, "a number of 0 or more")


def _share(text: str) -> float:
    return _number(text, float, lambda number: 0 < number <= 1, "a number above 0, at most 1")

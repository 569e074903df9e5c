"""The ``rkllm`` command: ask a daemon from the shell.

    rkllm run "Why is the sky blue?"
    rkllm chat
    rkllm status
    rkllm call rkllm.get_constants

Or look at this machine, without a daemon::

    rkllm doctor
    rkllm detect /usr/lib/librkllmrt.so

The answer goes to standard output, everything else to standard error. Exit status: 0 done, 1 an error (one line on
standard error says which), 2 wrong usage, 130 interrupted with Ctrl-C, 141 the reader of the output went away, 143
terminated (SIGTERM).
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command, and exit. Never returns.

    Args:
        argv: Its arguments; None for those of the process.
    """
    from rkllm_twisted.cli.arguments import parse  # ``--help`` and ``--version`` need neither Twisted nor a reactor

    options = parse(argv)

    from rkllm_twisted.cli.program import runProgram

    runProgram(options)

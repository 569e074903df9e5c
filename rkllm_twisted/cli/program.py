"""The process: its streams, its reactor, its exit status."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO, NoReturn, TextIO

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.task import react
from twisted.python.failure import Failure

from rkllm_twisted.cli.commands import COMMANDS, Session
from rkllm_twisted.cli.interrupts import Interrupts
from rkllm_twisted.cli.problems import (
    BROKEN_PIPE,
    INTERRUPTED,
    TERMINATED,
    UsageError,
    exitStatus,
    sentence,
    unreachable,
)
from rkllm_twisted.cli.terminal import Terminal
from rkllm_twisted.client import RKLLMClient


def runProgram(options: Namespace) -> NoReturn:
    """Carry out a command with the process's streams and Twisted's reactor, and exit.

    Args:
        options: The command line.
    """
    isClosed = sys.stdout is None
    stdin, stdout, stderr = _tolerant(sys.stdin), _tolerant(sys.stdout), _tolerant(sys.stderr)
    sys.stdin = stdin
    terminal = Terminal(stdout, stderr, os.environ)
    if isClosed:
        terminal.error("standard output is closed, there is nowhere to write to")
        sys.exit(1)
    _prepareInput(options, stdin, terminal)
    try:
        if options.command not in COMMANDS:
            from rkllm_twisted.cli.local import carryOut  # what these need is not imported for the others

            sys.exit(carryOut(options, terminal))
        react(lambda reactor: start(reactor, options, terminal))
    finally:
        _forgetBroken(stdout)
    raise AssertionError("react exits")


def _tolerant(stream: TextIO | None) -> TextIO:
    """The stream, made to pass something for a character that it has no code for; an empty one where it is closed."""
    if stream is None:
        return open(os.devnull, "r+")
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")
    return stream


def _prepareInput(options: Namespace, stdin: TextIO, terminal: Terminal) -> None:
    """Read what is to be read from standard input before anything else, or exit; let lines be edited that are typed."""
    try:
        readInput(options, stdin)
    except (UsageError, KeyboardInterrupt) as error:
        if isinstance(error, UsageError):
            terminal.error(str(error))
        sys.exit(exitStatus(error))
    if options.command == "chat" and stdin.isatty():
        import readline  # noqa: F401  # gives `input` its editing


def _forgetBroken(stream: TextIO) -> None:
    """Let the interpreter flush at its end whatever it holds for a reader that has gone."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def readInput(options: Namespace, stdin: TextIO) -> None:
    """Read what the command line leaves to standard input, and check what is text and what is JSON.

    Args:
        options: The command line; its ``prompt`` or ``params`` are replaced.
        stdin: Standard input.

    Raises:
        UsageError: It is not UTF-8, not JSON, or there is no prompt.
    """
    if options.command == "run":
        if options.prompt is None and stdin.isatty():
            raise UsageError('nothing to answer: rkllm run "…", or - to read the prompt from standard input')
        options.prompt = _text("-" if options.prompt is None else options.prompt, stdin.buffer)
        if not options.prompt.strip():
            raise UsageError("the prompt is empty")
    elif options.command == "call" and options.params is not None:
        options.params = _json(_text(options.params, stdin.buffer))


def _text(argument: str, stdin: BinaryIO) -> str:
    try:
        # An argument that is not UTF-8 comes with surrogates in it, which is not text either.
        return stdin.read().decode() if argument == "-" else argument.encode().decode()
    except UnicodeError:
        raise UsageError("the input is not UTF-8") from None


def _json(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise UsageError(f"the params are not JSON: {error}") from None


def start(
    reactor: Any, options: Namespace, terminal: Terminal, readLine: Callable[[str], str] = input
) -> Deferred[None]:
    """Carry out a command.

    Args:
        reactor: Not running yet.
        options: The command line.
        terminal: Where everything is written.
        readLine: What `chat` reads a line with.

    Returns:
        Fails with SystemExit, always; with what was not expected, which is a defect.
    """

    def leave(status: int) -> None:
        try:
            terminal.erase()
        finally:
            os._exit(status)

    interrupts = Interrupts(reactor.callFromThread, partial(leave, INTERRUPTED), terminal.typedInto)
    reactor.callWhenRunning(interrupts.installTermination, partial(leave, TERMINATED))
    working = Deferred.fromCoroutine(_carryOut(reactor, options, terminal, interrupts, readLine))
    interrupts.install(working.cancel)
    return working.addErrback(_explained, options, terminal).addCallback(_exit)


async def _carryOut(
    reactor: Any, options: Namespace, terminal: Terminal, interrupts: Interrupts, readLine: Callable[[str], str]
) -> int:
    client = await _connected(reactor, options)
    try:
        return await COMMANDS[options.command](Session(client, terminal, interrupts, reactor, options, readLine))
    finally:
        client.disconnect()  # not waited for: a daemon that does not read must not keep the command


async def _connected(reactor: Any, options: Namespace) -> RKLLMClient:
    try:
        return await RKLLMClient.connectTo(reactor, options.socket)
    except ValueError as error:
        raise UsageError(f"--socket {options.socket}: {error}") from error


def _explained(failure: Failure, options: Namespace, terminal: Terminal) -> int:
    """One line for what went wrong, and the exit status."""
    error = failure.value
    assert error is not None
    status = exitStatus(error)
    if status is None:
        failure.raiseException()
    if status == BROKEN_PIPE:
        return BROKEN_PIPE
    try:
        if status == INTERRUPTED:
            terminal.endLine()
        else:
            terminal.error(_sentence(error, options))
    except BrokenPipeError:
        return BROKEN_PIPE
    return status


def _sentence(error: BaseException, options: Namespace) -> str:
    if isinstance(error, ConnectError):
        return unreachable(error, options.socket)
    return sentence(error, options.command)


def _exit(status: int) -> NoReturn:
    raise SystemExit(status)

"""What the commands do, once connected."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from rkllm_twisted.cli.answering import ENDED_BY_ANOTHER, Answering
from rkllm_twisted.cli.chat import Chat
from rkllm_twisted.cli.interrupts import Interrupts
from rkllm_twisted.cli.problems import INTERRUPTED, sentence
from rkllm_twisted.cli.terminal import Terminal, columns
from rkllm_twisted.client import RKLLMClient
from rkllm_twisted.errors import Cancelled, MethodNotFound, RKLLMError


class Session(Struct):
    """One connection, for one command."""

    client: RKLLMClient
    terminal: Terminal
    interrupts: Interrupts
    clock: IReactorTime
    options: Namespace
    """The command line; ``prompt`` and ``params`` hold what was read for ``-``."""
    readLine: Callable[[str], str]
    """Reads a line behind a prompt, in the main thread."""

    def answering(self) -> Answering:
        """What asks for a prompt's answer and shows it."""
        return Answering(self.client, self.terminal, self.interrupts, self.clock, self.options)


Command = Callable[[Session], Coroutine[Deferred[Any], Any, int]]
"""Returns the exit status, or raises what went wrong."""


async def run(session: Session) -> int:
    """``rkllm run``: one prompt."""
    answer = await session.answering().answer(session.options.prompt)
    if answer.wasInterrupted:
        return INTERRUPTED
    if answer.wasEndedByAnother:
        session.terminal.error(ENDED_BY_ANOTHER)
        return 1
    return 0


async def chat(session: Session) -> int:
    """``rkllm chat``: turn by turn."""
    await Chat(session.answering(), session.terminal, session.interrupts, session.readLine, session.clock).talk()
    return 0


async def status(session: Session) -> int:
    """``rkllm status``: a line for each fact."""
    facts = await _facts(session.client)
    if session.options.json:
        session.terminal.line(msgspec.json.encode(facts).decode())
        return 0
    for line in columns([("socket", session.options.socket), *_flat(facts)]):
        session.terminal.line(line)
    return 0


async def _facts(client: RKLLMClient) -> Mapping[str, object]:
    try:
        return await client.serverStatus()
    except MethodNotFound:  # a daemon that does not tell about itself; what can be asked is asked
        return {"generating": await client.isRunning()}


def _flat(facts: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Each fact as a name and a text, those within others behind the outer name."""
    for key, value in facts.items():
        name = f"{prefix}{key.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name} ")
        else:
            yield name, _text(value)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == []:
        return "none"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


async def call(session: Session) -> int:
    """``rkllm call``: each result line as it comes."""
    stream = session.client.stream(session.options.method, session.options.params)
    try:
        with session.interrupts.ending(stream.abort):
            async for line in stream:
                session.terminal.line(line.decode())
    except RKLLMError as error:
        if isinstance(error, Cancelled) and session.interrupts.hasHappened:
            return INTERRUPTED
        session.terminal.error(_inFull(error))
        return 1
    return INTERRUPTED if session.interrupts.hasHappened else 0


def _inFull(error: RKLLMError) -> str:
    """The error with its data, where that says more than whether to try again."""
    more = {key: value for key, value in error.data.items() if key != "retryable"}
    return sentence(error, "call") + (f" {msgspec.json.encode(more).decode()}" if more else "")


COMMANDS: dict[str, Command] = {"run": run, "chat": chat, "status": status, "call": call}
"""Those that ask a daemon; the others are in `local`."""

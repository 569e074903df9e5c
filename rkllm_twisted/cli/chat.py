"""``rkllm chat``: turn by turn."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from rkllm_twisted.cli.answering import ENDED_BY_ANOTHER, Answer, Answering
from rkllm_twisted.cli.interrupts import Interrupts
from rkllm_twisted.cli.problems import sentence
from rkllm_twisted.cli.terminal import Terminal
from rkllm_twisted.client import ConnectionLost
from rkllm_twisted.errors import ModelNotInitialized, NotSupported, RKLLMError
from rkllm_twisted.values import Capability

HELP = """\
Type a message and Enter. Ctrl-C ends an answer, Ctrl-D leaves.
/help   this
/clear  forget what was said
/exit   leave"""


class Chat:
    """Reads a line, writes the answer, and so on.

    Reading a line blocks the reactor, on purpose: it happens only between two generations, when nothing is under way
    that could need it, and only in the main thread does Ctrl-C reach ``input`` and readline.

    Args:
        answering: Asks the daemon.
        terminal: Where answers and notes go.
        interrupts: Ctrl-C.
        readLine: Reads a line behind a prompt, in the main thread; raises EOFError and KeyboardInterrupt as ``input``.
        clock: The reactor's.
    """

    def __init__(
        self,
        answering: Answering,
        terminal: Terminal,
        interrupts: Interrupts,
        readLine: Callable[[str], str],
        clock: IReactorTime,
    ) -> None:
        self._answering = answering
        self._terminal = terminal
        self._interrupts = interrupts
        self._readLine = readLine
        self._clock = clock
        self._keepsHistory = True

    async def talk(self) -> None:
        """Go on until the end of the input or ``/exit``.

        Raises:
            ConnectionLost: The daemon has gone.
            ModelNotInitialized: No model is loaded and none was named.
            UsageError: The daemon's backend lacks an option that was given.
        """
        while (line := await self._nextLine()) is not None:
            await self._lineTyped(line.strip())

    async def _nextLine(self) -> str | None:
        await deferLater(self._clock, 0)  # lets the reactor finish with the last turn before input stops it
        while True:
            try:
                with self._interrupts.asKeyboardInterrupt():
                    line = self._readLine(self._terminal.prompt("> "))
            except KeyboardInterrupt:
                self._terminal.line("")
                self._terminal.note("Ctrl-D or /exit leaves")
            except EOFError:
                self._terminal.write("\n" if self._terminal.isInteractive else "")
                return None
            else:
                return None if line.strip() in ("/exit", "/quit") else line

    async def _lineTyped(self, line: str) -> None:
        if line == "/help":
            self._terminal.note(HELP)
        elif line == "/clear":
            await self._clear()
        elif line.startswith("/"):
            self._terminal.note(f"there is no {line.split()[0]}; /help tells what there is")
        elif line:
            await self._turn(line)

    async def _clear(self) -> None:
        self._interrupts.forget()
        clearing = self._answering.clearHistory()
        try:
            with self._interrupts.ending(clearing.cancel):
                await clearing
        except ConnectionLost:
            raise
        except CancelledError:
            self._terminal.note("interrupted, nothing was forgotten")
        except ModelNotInitialized:
            self._terminal.note("nothing to forget: no model is loaded")
        except RKLLMError as error:
            self._terminal.error(sentence(error, "chat"))
        else:
            self._terminal.note("what was said is forgotten")

    async def _turn(self, prompt: str) -> None:
        self._interrupts.forget()
        try:
            self._answered(await self._answer(prompt))
        except (ConnectionLost, ModelNotInitialized):
            raise
        except RKLLMError as error:
            self._terminal.error(sentence(error, "chat"))
            if error.data.get("history_lost"):
                self._historyLost()

    async def _answer(self, prompt: str) -> Answer:
        if not self._keepsHistory:
            return await self._answering.answer(prompt)
        try:
            return await self._answering.answer(prompt, keep_history=1)
        except NotSupported as error:
            if error.data.get("needs") != Capability.KEEP_HISTORY.value:
                raise
        self._keepsHistory = False
        self._terminal.note("this backend keeps no history: each message is answered by itself")
        return await self._answering.answer(prompt)

    def _answered(self, answer: Answer) -> None:
        if answer.wasInterrupted:
            self._terminal.note("interrupted")
        elif answer.wasEndedByAnother:
            self._terminal.note(ENDED_BY_ANOTHER)
        if answer.last is not None and answer.last.history_lost:
            self._historyLost()

    def _historyLost(self) -> None:
        self._terminal.note("the daemon has forgotten what was said before this")

"""A prompt to the daemon, and its answer to the terminal."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from os.path import abspath, exists
from typing import Any

import msgspec
from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from rkllm_twisted.cli.interrupts import Interrupts
from rkllm_twisted.cli.problems import UsageError
from rkllm_twisted.cli.terminal import Terminal
from rkllm_twisted.client import ResultStream, RKLLMClient, StreamResult, decodeStreamResult
from rkllm_twisted.errors import Cancelled, ModelNotInitialized, NotSupported
from rkllm_twisted.values import NO_PERF, Capability, InputType

SAMPLING = ("temperature", "top_k", "top_p")
OPTIONS = {Capability.SAMPLING_PER_RUN: SAMPLING, Capability.MAX_NEW_TOKENS_PER_RUN: ("max_new_tokens",)}
"""What a backend must be capable of for each option."""
ENDED_BY_ANOTHER = "the answer is not complete: it was ended from elsewhere, or the daemon is stopping"


class Answer(Struct):
    """What is known of an answer when it has ended."""

    last: StreamResult | None = None
    """Its finish line; None if it was cancelled before its first."""
    wasInterrupted: bool = False
    firstTokenAfter: float | None = None
    """Seconds from sending the request to its first line, by the clock of this side."""

    @property
    def wasEndedByAnother(self) -> bool:
        """Whether it was aborted, and not with Ctrl-C here."""
        return not self.wasInterrupted and self.last is not None and self.last.finish_reason == "abort"


class Answering:
    """Asks the daemon and writes what it answers.

    Args:
        client: The connection to it.
        terminal: Where the answer goes.
        interrupts: Ctrl-C aborts the generation; its last line is waited for.
        clock: For the time to the first token and the progress line.
        options: ``model``, ``max_new_tokens``, ``temperature``, ``top_k``, ``top_p``, ``stats``; ``json`` may be there.
    """

    def __init__(
        self, client: RKLLMClient, terminal: Terminal, interrupts: Interrupts, clock: IReactorTime, options: Namespace
    ) -> None:
        self._client = client
        self._terminal = terminal
        self._interrupts = interrupts
        self._clock = clock
        self._options = options
        self._isJson = getattr(options, "json", False)

    async def answer(self, prompt: str, **inferParam: object) -> Answer:
        """Ask, and write the answer as it comes. Loads the model that was named if there is none.

        Args:
            prompt: What to ask.
            inferParam: Fields of the wire's inference parameters, beside those of the options.

        Raises:
            ModelNotInitialized: None is loaded and none was named.
            UsageError: The daemon's backend cannot take an option that was given with a run.
            RKLLMError: What ended the generation, after what came of it was written.
        """
        try:
            answer = await self._generate(prompt, inferParam)
        except ModelNotInitialized:
            if self._options.model is None:
                raise
            await self._load()
            answer = await self._generate(prompt, inferParam)
        finally:
            self._terminal.endLine()
        if self._options.stats and answer.last is not None:
            self._terminal.note(figures(answer.last, answer.firstTokenAfter))
        return answer

    def clearHistory(self) -> Deferred[dict[str, Any]]:
        """Let the model forget what was said, but for the system prompt.

        Returns:
            Fires when it has; fails with `errors.ModelNotInitialized` or what else the daemon answers. Cancelling it
            cancels the request.
        """
        return self._client.clearKVCache(True)

    async def _generate(self, prompt: str, more: dict[str, object]) -> Answer:
        input = {"input_type": InputType.RKLLM_INPUT_PROMPT, "prompt_input": prompt}
        stream = self._client.stream("rkllm.run", [None, input, self._inferParam(more), None])
        answer = Answer()
        with self._interrupts.ending(stream.abort):
            try:
                await self._show(stream, answer)
            except Cancelled:
                if not self._interrupts.hasHappened:
                    raise
            except NotSupported as error:
                self._checkOptions(error)
                raise
        answer.wasInterrupted = self._interrupts.hasHappened
        return answer

    def _inferParam(self, more: dict[str, object]) -> dict[str, object]:
        sampling = self._chosen(Capability.SAMPLING_PER_RUN)
        length = self._chosen(Capability.MAX_NEW_TOKENS_PER_RUN)
        return {**length, **({"sampling_params": sampling} if sampling else {}), **more}

    async def _show(self, stream: ResultStream[bytes], answer: Answer) -> None:
        asked = self._clock.seconds()
        async for line in stream:
            if answer.firstTokenAfter is None:
                answer.firstTokenAfter = self._clock.seconds() - asked
            result = decodeStreamResult(line)
            if self._isJson:
                self._terminal.line(line.decode())
            else:
                self._terminal.write(result.text or "")
            if result.isFinish:
                answer.last = result

    def _checkOptions(self, error: NotSupported) -> None:
        """Say it in the words of the command line, where what is not supported are options given there."""
        needs = str(error.data.get("needs")).split(", ")
        chosen = [self._chosen(capability) for capability in OPTIONS if capability.value in needs]
        if lacking := {name: value for each in chosen for name, value in each.items()}:
            raise UsageError(_cannotTake(lacking)) from error

    def _chosen(self, capability: Capability) -> dict[str, object]:
        given = vars(self._options)
        return {name: given[name] for name in OPTIONS[capability] if given[name] is not None}

    async def _load(self) -> None:
        with self._progress(f"loading {self._options.model}"):
            # Without the options: a model is everybody's, and keeps what it was loaded with.
            await self._client.init(model_path=_modelPath(self._options.model))

    @contextmanager
    def _progress(self, what: str) -> Iterator[None]:
        """Show what goes on and for how long, and take it back at the end."""
        since = self._clock.seconds()
        ticking = LoopingCall(lambda: self._terminal.progress(f"{what} … {self._clock.seconds() - since:.0f} s"))
        ticking.clock = self._clock
        if self._terminal.showsProgress:
            ticking.start(1.0).addErrback(lambda _: None)  # no terminal any more: nothing to show it on
        try:
            yield
        finally:
            if ticking.running:
                ticking.stop()
            self._terminal.erase()


def figures(result: StreamResult, firstTokenAfter: float | None) -> str:
    """The figures of a finished run in one line.

    Args:
        result: Its finish line.
        firstTokenAfter: Seconds until its first line.
    """
    perf = result.perf
    parts = [
        _rate("prefill", perf.prefill_tokens, perf.prefill_time_ms),
        _rate("decode", perf.generate_tokens, perf.generate_time_ms),
    ]
    if perf == NO_PERF:
        parts = ["no figures"]
    if firstTokenAfter is not None:
        parts.append(f"first token after {firstTokenAfter * 1000:.0f} ms")
    if result.finish_reason is not None:
        parts.append(f"ended by {result.finish_reason}")
    return " · ".join(parts)


def _rate(what: str, tokens: int, milliseconds: float) -> str:
    rate = f" ({tokens / milliseconds * 1000:.1f} tokens/s)" if tokens and milliseconds > 0 else ""
    return f"{what} {tokens} tokens in {milliseconds:.0f} ms{rate}"


def _modelPath(model: str) -> str:
    # The daemon has a working directory of its own; what is no file here may be a short name there.
    return abspath(model) if exists(model) else model


def _cannotTake(options: dict[str, object]) -> str:
    names = ", ".join(f"--{name.replace('_', '-')}" for name in options)
    param = msgspec.json.encode({"model_path": "…", **options}).decode()
    return (
        f"the daemon's backend does not take {names} for a single run; "
        f"to set it for everybody, load the model with it: rkllm call rkllm.init '[null, {param}]'"
    )

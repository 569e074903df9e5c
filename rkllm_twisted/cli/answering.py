"""A prompt to the daemon, and its answer to the terminal."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from os.path import abspath, exists

from msgspec import Struct
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from rkllm_twisted.cli.interrupts import Interrupts
from rkllm_twisted.cli.terminal import Terminal
from rkllm_twisted.client import ResultStream, RKLLMClient, StreamResult, decodeStreamResult
from rkllm_twisted.errors import Cancelled, ModelNotInitialized
from rkllm_twisted.values import NO_PERF, InputType

SAMPLING = ("temperature", "top_k", "top_p")


class Answer(Struct):
    """What is known of an answer when it has ended."""

    last: StreamResult | None = None
    """Its finish line; None if it was cancelled before its first."""
    wasInterrupted: bool = False
    firstTokenAfter: float | None = None
    """Seconds from sending the request to its first line, by the clock of this side."""


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
        self._hasLoaded = False

    async def answer(self, prompt: str, **inferParam: object) -> Answer:
        """Ask, and write the answer as it comes. Loads the model that was named if there is none.

        Args:
            prompt: What to ask.
            inferParam: Fields of the wire's inference parameters, beside those of the options.

        Raises:
            ModelNotInitialized: None is loaded and none was named.
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

    async def _load(self) -> None:
        with self._progress(f"loading {self._options.model}"):
            await self._client.init({"model_path": _modelPath(self._options.model), **self._chosen()})
        self._hasLoaded = True

    def _chosen(self) -> dict[str, object]:
        given = vars(self._options)
        return {name: given[name] for name in (*SAMPLING, "max_new_tokens") if given[name] is not None}

    def _inferParam(self, more: dict[str, object]) -> dict[str, object]:
        if self._hasLoaded:
            return more  # the model was loaded with what was chosen, which every runtime can do
        chosen = self._chosen()
        sampling = {name: chosen.pop(name) for name in SAMPLING if name in chosen}
        return {**chosen, **({"sampling_params": sampling} if sampling else {}), **more}

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
        answer.wasInterrupted = self._interrupts.hasHappened
        return answer

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


def _modelPath(model: str) -> str:
    # The daemon has a working directory of its own; what is no file here may be a short name there.
    return abspath(model) if exists(model) else model


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

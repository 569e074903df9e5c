"""One run: places in, results out, until it has ended. Of one sequence, or of several side by side (``n_batch``)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rkllm_twisted.backends.llamacpp.context import Stopped
from rkllm_twisted.backends.llamacpp.loaded import Loaded
from rkllm_twisted.backends.llamacpp.sampling import SamplerChain
from rkllm_twisted.backends.llamacpp.sequence import Sequence
from rkllm_twisted.backends.llamacpp.tensors import Tensors
from rkllm_twisted.backends.utf8 import WholeCharacters
from rkllm_twisted.interfaces import OnResult
from rkllm_twisted.values import CallState, RKLLMParam, RKLLMPerfStat, RKLLMResult

STOP, LENGTH, ABORT = "stop", "length", "abort"


class Strand:
    """One sequence of a run and what comes of it.

    Args:
        sequence: The sequence; its places are the prompt, and what is said is added to them.
        chain: Chooses its tokens.
        most: How many tokens it generates at most; 0 reads the prompt and says nothing.
        index: Which of several it is; None where there is one only.

    Attributes:
        characters: Its text so far, as far as it is no whole character.
        generated: How many tokens it has generated.
        reason: Why it has ended; None while it has not.
    """

    def __init__(self, sequence: Sequence, chain: SamplerChain, most: int, index: int | None) -> None:
        self.sequence = sequence
        self.chain = chain
        self.most = most
        self.index = index
        self.characters = WholeCharacters()
        self.generated = 0
        self.reason: str | None = None


class Generation:
    """A run in progress, in the one thread of its model.

    Args:
        loaded: The model.
        strands: Its sequences, begun.
        tensors: Takes logits or hidden states, where they are asked for.
        onResult: Gets the results.
        param: What the model was loaded with; says what is done with special tokens and end tokens.
        kept: How many of the first places of a sequence stay when the context is full.
        seconds: A monotonic clock.
    """

    def __init__(
        self,
        loaded: Loaded,
        strands: list[Strand],
        tensors: Tensors,
        onResult: OnResult,
        param: RKLLMParam,
        kept: Callable[[Sequence], int],
        seconds: Callable[[], float],
    ) -> None:
        self._context = loaded.context
        self._vocabulary = loaded.vocabulary
        self._strands = strands
        self._tensors = tensors
        self._onResult = onResult
        self._showsSpecial = not param.skip_special_token
        self._ignoresEnd = bool(param.ignore_eos_token)
        self._kept = kept
        self._seconds = seconds
        self._prefilled = 0

    def run(self, prefillDone: Callable[[], object]) -> str:
        """Read the prompts and generate.

        Args:
            prefillDone: Called when the prompts are in the KV caches and nothing else is.

        Returns:
            Why it ended.

        Raises:
            RuntimeCallFailed: llama.cpp failed; there is no FINISH then.
        """
        started = self._seconds()
        first = self._prefill()
        prefilled = self._seconds()
        if first is not None:
            prefillDone()
            self._generate(first)
        for strand in self._strands:
            strand.reason = strand.reason or ABORT
            self._endText(strand)
        perf = RKLLMPerfStat(
            prefill_time_ms=(prefilled - started) * 1000,
            prefill_tokens=self._prefilled if first is not None else 0,
            generate_time_ms=(self._seconds() - prefilled) * 1000,
            generate_tokens=sum(max(0, strand.generated - 1) for strand in self._strands),
            memory_usage_mb=peakMemory(),
        )
        self._onResult(RKLLMResult(perf=perf), CallState.RKLLM_RUN_FINISH)
        reasons = {strand.reason for strand in self._strands}
        return next(reason for reason in (ABORT, LENGTH, STOP) if reason in reasons)

    # Prefill

    def _prefill(self) -> list[int] | None:
        """Compute the prompts, and choose each sequence's first token; -1 where none is wanted. None if stopped."""
        first = []
        try:
            for strand in self._strands:
                self._checkStop()
                taken = self._tensors.takenFrom(strand.sequence)
                self._prefilled += strand.sequence.compute(*taken)
                first.append(strand.chain.sample(self._context.pointer, -1) if strand.most else -1)
        except Stopped:
            for strand in self._strands:
                strand.sequence.undo()
            return None
        return first

    def _checkStop(self) -> None:
        if self._context.stop.isSet():
            raise Stopped

    # Decode

    def _generate(self, tokens: list[int]) -> None:
        """Report the chosen tokens and choose the next ones, until all sequences have ended or it is stopped."""
        chosen: dict[Strand, int] = dict(zip(self._strands, tokens, strict=True))
        while True:
            for strand in self._strands:
                self._said(strand, chosen.get(strand))
            going = [strand for strand in self._strands if strand.reason is None]
            if not going:
                return
            try:
                chosen = self._next(going)
            except Stopped:
                return

    def _next(self, going: list[Strand]) -> dict[Strand, int]:
        for strand in going:
            strand.sequence.makeRoomFor(0, self._kept)
        chosen = {}
        for strand in going:
            if strand.sequence.pending > 1:  # places have moved, and this kind of cache had to let go of them
                strand.sequence.compute(len(strand.sequence.places))
                chosen[strand] = self._choose(strand, -1)
        together = [strand for strand in going if strand not in chosen]
        if together:
            self._step(together)
            chosen.update((strand, self._choose(strand, row)) for row, strand in enumerate(together))
        return chosen

    def _choose(self, strand: Strand, row: int) -> int:
        """The next token of a sequence, out of a row of the last computation."""
        self._tensors.takeStep(strand.sequence)
        return strand.chain.sample(self._context.pointer, row)

    def _step(self, strands: list[Strand]) -> None:
        sequences = [strand.sequence for strand in strands]
        try:
            self._context.step(
                [sequence.number for sequence in sequences],
                [sequence.computed for sequence in sequences],
                [sequence.lastToken for sequence in sequences],
            )
        except BaseException:
            for sequence in sequences:
                sequence.settle()
            raise
        for sequence in sequences:
            sequence.stepped()

    # What is said

    def _said(self, strand: Strand, token: int | None) -> None:
        if token is None:  # it has ended, others have not
            self._onResult(RKLLMResult(token_id=-1, batch_index=strand.index), CallState.RKLLM_RUN_NORMAL)
        elif token < 0:
            self._report(strand, None, -1, CallState.RKLLM_RUN_NORMAL)
            strand.reason = STOP
        else:
            self._saidToken(strand, token)

    def _saidToken(self, strand: Strand, token: int) -> None:
        strand.generated += 1
        strand.sequence.places.append(token)
        text = strand.characters.add(self._vocabulary.piece(token, special=self._showsSpecial))
        waits = text is None and strand.characters.isWaiting()
        state = CallState.RKLLM_RUN_WAITING if waits else CallState.RKLLM_RUN_NORMAL
        self._report(strand, text or None, token, state)
        if not self._ignoresEnd and self._vocabulary.isEnd(token):
            strand.reason = STOP
        elif strand.generated == strand.most:
            strand.reason = LENGTH

    def _report(self, strand: Strand, text: str | None, token: int, state: CallState) -> None:
        self._onResult(self._tensors.resultOf(strand.sequence, text, token, strand.index), state)

    def _endText(self, strand: Strand) -> None:
        if left := strand.characters.end():
            result = RKLLMResult(text=left, token_id=-1, batch_index=strand.index)
            self._onResult(result, CallState.RKLLM_RUN_NORMAL)


def peakMemory(status: Path = Path("/proc/self/status")) -> float:
    """VmHWM of this process in MB, which is what RKLLM reports; 0 where it cannot be read."""
    try:
        lines = status.read_text("ascii", "replace").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)

"""What one sequence of a context holds, and how it comes to hold what a run needs.

A sequence is known as its *places*, token ids and rows of embeddings in order. The KV cache holds the first of them,
``computed`` many; the rest has been said (the last token of an answer, which is chosen but not yet computed) or is
about to be. So a cache that is lost, or that was computed with another LoRA adapter, costs time and never the history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import takewhile
from operator import eq

from rkllm_twisted.backends.llamacpp.context import BLOCK, Context, Place
from rkllm_twisted.backends.llamacpp.promptcache import PromptCache
from rkllm_twisted.errors import PromptTooLong


class Sequence:
    """One sequence.

    Args:
        context: Holds its KV cache.
        number: Which of the context's sequences it is.

    Attributes:
        number: The same.
        places: What it is known to hold.
        computed: How many of them are in the KV cache.
        isHistory: Whether the next run that keeps its history continues it.
        began: Where the run in progress began; places before it are the history that it continues.
    """

    def __init__(self, context: Context, number: int) -> None:
        self.number = number
        self.places: list[Place] = []
        self.computed = 0
        self.isHistory = False
        self.began = 0
        self._context = context
        self._adapter = ""
        self._reusable = 0
        """So many of the first places may be found by a run that begins anew: they were computed in whole blocks with
        nothing missing before them, and so as that run would compute them, to the bit."""

    @property
    def pending(self) -> int:
        """How many places are not computed yet."""
        return len(self.places) - self.computed

    @property
    def lastToken(self) -> int:
        """The last place, if it is a token; -1 where there is none."""
        last = self.places[-1] if self.places else -1
        return last if isinstance(last, int) else -1

    # A run

    def continues(self, keeps: bool) -> bool:
        """Whether a run that keeps its history, or does not, is said behind what the sequence holds."""
        return keeps and self.isHistory

    def begin(self, new: list[Place], *, keeps: bool, adapter: str, cache: PromptCache | None, reuses: bool) -> None:
        """Take what a run says, and keep of the KV cache what serves it.

        Args:
            new: What is said, at least one place.
            keeps: Whether the run keeps its history.
            adapter: With which adapter it is computed, as `adapters.Adapter.key`.
            cache: May be taken in place of what the KV cache holds.
            reuses: Whether places may be found computed already; their logits and hidden states are then not to be had.
        """
        continues = self.continues(keeps)
        self.began = len(self.places) if continues else 0
        held, target = self.places, [*self.places[: self.began], *new]
        if self._adapter != adapter:
            self._cut(0)
        self._adapter = adapter
        if not continues:
            # The last place is never found: it must be computed.
            self.isHistory = False
            found = agreement(held[: self._reusable], target[:-1]) // BLOCK * BLOCK if reuses else 0
            self.places = held[:found]
            self._cut(found)
            if reuses and cache is not None and cache.adapter == adapter:
                self._tryCache(cache, target, found)
        self.places = target

    def _tryCache(self, cache: PromptCache, target: list[Place], found: int) -> None:
        usable = agreement(cache.places, target[:-1])  # to the place: whoever loads one wants all of it
        if usable > found:
            self.computed = len(cache.places) if self._context.restore(self.number, cache.state) else 0
            self._reusable = 0
            self._cut(usable)

    def compute(self, firstOutput: int, blockDone: Callable[[int, int], object] = lambda size, outputs: None) -> int:
        """Compute all places that are not yet.

        Args:
            firstOutput: The place from which on logits and hidden states are wanted; the last place always gives them.
            blockDone: Called after each block, with how many places it had and how many of them gave these; it may
                read them.

        Returns:
            How many places that was.

        Raises:
            Stopped, RuntimeCallFailed: What was computed stays computed.
        """
        began = self.computed
        # A block of both kinds is computed in parts, by everybody in the same ones.
        isReusable = self._reusable == began
        while self.computed < len(self.places):
            block = self._nextBlock()
            end = self.computed + len(block)
            outputs = min(len(block), max(0, end - firstOutput, int(end == len(self.places))))
            try:
                self._context.compute(self.number, self.computed, block, outputs)
            except BaseException:
                self.settle()
                raise
            if isReusable:
                self._reusable = end // BLOCK * BLOCK
            self.computed = end
            blockDone(len(block), outputs)
        return self.computed - began

    def _nextBlock(self) -> list[Place]:
        start = self.computed
        block = self.places[start : (start // BLOCK + 1) * BLOCK]
        kind = type(block[0])
        return block[: sum(1 for _ in takewhile(lambda place: type(place) is kind, block))]

    def stepped(self) -> None:
        """The one place that was not computed has been, together with other sequences'."""
        self.computed += 1

    def settle(self) -> None:
        """A computation has failed or was stopped: let the KV cache hold what is known to be computed."""
        self._cutTo(self.computed)

    def keep(self, keeps: bool) -> None:
        """What the run says has been computed: it is history from here on, with the answer to come, or is not."""
        self.isHistory = keeps

    def undo(self) -> None:
        """The run has failed, or was stopped before it said anything: go back to the history before it.

        Without one, what has been computed stays for others to find, unless the run was to keep it: half an answer is
        no history.
        """
        del self.places[self.began if self.isHistory else self.computed :]
        self._cut(len(self.places))
        self.isHistory = self.isHistory and bool(self.places)

    # Room

    def checkRoomFor(self, count: int, kept: Callable[[Sequence], int]) -> None:
        """Refuse a run for which `makeRoomFor` could not make room.

        Args:
            count: How many places it has to say; behind them there must be room for one token.
            kept: How many of the first places stay; asked only if it matters.

        Raises:
            PromptTooLong: There is no room for them behind the places that stay.
        """
        length = self._context.length
        if len(self.places) + count >= length and (keep := kept(self)) + count >= length:
            raise PromptTooLong(tokens=keep + count, limit=length)

    def makeRoomFor(self, count: int, kept: Callable[[Sequence], int]) -> None:
        """Drop old places, if need be, so that there is room for all that are said and so many more.

        What is dropped is half of what may be, or more where that is not enough: a context that lost one place at a
        time would move all others each time.

        Args:
            count: How many more.
            kept: How many of the first places stay; asked only if it matters.
        """
        excess = len(self.places) + count - self._context.length
        if excess > 0:
            keep = kept(self)
            self._drop(keep, max(excess, (len(self.places) - keep) // 2))

    def _drop(self, start: int, count: int) -> None:
        end = start + count
        if self._context.canShift and end <= self.computed:
            self._context.close(self.number, start, end)
            self.computed -= count
        else:
            self._cut(min(start, self.computed))
        del self.places[start:end]
        self._reusable = min(self._reusable, start // BLOCK * BLOCK)
        self.began -= max(0, min(end, self.began) - start)

    # The functions

    def clear(self, keep: int = 0) -> None:
        """Forget all but the first places."""
        del self.places[keep:]
        self._cut(min(keep, self.computed))
        self.isHistory = False

    def remove(self, start: int, end: int) -> None:
        """Forget computed places in the middle or at the end; what has been said behind the end goes with it."""
        if end >= self.computed:
            del self.places[end:]
        self._drop(start, end - start)
        self.isHistory = self.isHistory and bool(self.places)

    def _cut(self, position: int) -> None:
        """Let the KV cache hold no more than the first places."""
        if position < self.computed:
            self._cutTo(position)

    def _cutTo(self, position: int) -> None:
        if not self._context.cut(self.number, position):
            position = 0
            self._context.cut(self.number, 0)
        self.computed = position
        self._reusable = min(self._reusable, position // BLOCK * BLOCK)


def agreement(one: Iterable[Place], other: Iterable[Place]) -> int:
    """How many of the first places are the same."""
    return sum(1 for _ in takewhile(bool, map(eq, one, other)))

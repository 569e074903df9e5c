"""Results joined to one, with their texts and the rows of their tensors (W-OPTIONS)."""

from __future__ import annotations

from rkllm_twisted.values import RKLLMPerfStat, RKLLMResult, RKLLMResultLastHiddenLayer, RKLLMResultLogits


class Joined:
    """Results joined to one.

    Args:
        rows: "last" keeps the tensors of the last result only.
    """

    def __init__(self, rows: str) -> None:
        self._keepsAll = rows == "all"
        self._texts: list[str] = []
        self._last = RKLLMResult(token_id=-1)
        self._hidden = Rows()
        self._logits = Rows()

    @property
    def bytes(self) -> int:
        """Of the tensors."""
        return len(self._hidden.data) + len(self._logits.data)

    def add(self, result: RKLLMResult) -> None:
        """One more result, behind those there are."""
        self._last = result
        if result.text:
            self._texts.append(result.text)
        hidden, logits = result.last_hidden_layer, result.logits
        self._hidden.add(hidden.hidden_states, hidden.num_tokens, hidden.embd_size, self._keepsAll)
        self._logits.add(logits.logits, logits.num_tokens, logits.vocab_size, self._keepsAll)

    def result(self, perf: RKLLMPerfStat) -> RKLLMResult:
        """All of them, with the figures of the run."""
        return RKLLMResult(
            text="".join(self._texts),
            token_id=self._last.token_id,
            last_hidden_layer=RKLLMResultLastHiddenLayer(*self._hidden.whole()),
            logits=RKLLMResultLogits(*self._logits.whole()),
            perf=perf,
        )


class Rows:
    """Rows of a tensor."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._count = 0
        self._width = 0

    def add(self, data: bytes | None, count: int, width: int, keepsAll: bool) -> None:
        """More rows, behind those there are or in their place."""
        if data is not None:
            if not keepsAll:
                self.data.clear()
                self._count = 0
            self.data += data
            self._count += count
            self._width = width

    def whole(self) -> tuple[bytes | None, int, int]:
        """The rows, their width and how many they are."""
        return bytes(self.data) or None, self._width, self._count

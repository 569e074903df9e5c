"""Text into the tokens of a model, and tokens into text."""

from __future__ import annotations

from typing import Any

from rkllm_twisted.backends.llamacpp.library import Library
from rkllm_twisted.errors import PromptTooLong, RuntimeCallFailed


class Vocabulary:
    """The vocabulary of a loaded model, valid as long as the model is.

    Args:
        library: The functions.
        model: The model, which owns it.
        longestToken: The most bytes that one token stands for.

    Attributes:
        size: How many tokens there are.
    """

    def __init__(self, library: Library, model: Any, longestToken: int) -> None:
        self._c, self._ffi = library.c, library.ffi
        self._vocabulary = self._c.llama_model_get_vocab(model)
        self._piece = self._ffi.new("char[]", 256)
        self._longestToken = max(1, longestToken)
        self.size: int = self._c.llama_vocab_n_tokens(self._vocabulary)

    def free(self) -> None:
        """The model is gone. A call that comes too late is then a TypeError and not a read of freed memory."""
        self._vocabulary = None

    def specialText(self) -> tuple[str, str]:
        """The texts of the tokens that begin and end a text; "" where the model has none."""
        begin, end = self._c.llama_vocab_bos(self._vocabulary), self._c.llama_vocab_eos(self._vocabulary)
        return self.text(begin), self.text(end)

    def tokenize(self, text: str, limit: int, *, begins: bool = True) -> list[int]:
        """The ids of a text, in which the texts of special tokens stand for these tokens.

        A model that wants a begin token gets it, unless the text begins with it already. (llama_tokenize could add it,
        but ends the process where a model asks for one that it does not have.)

        Args:
            text: What to tokenise.
            limit: The context, in tokens.
            begins: Whether nothing comes before it.

        Raises:
            PromptTooLong: The text cannot fit, however it is divided; ``tokens`` is the fewest that it can be. Told
                without llama.cpp, which takes 13 s for a text of 100000 special tokens (measured), deaf to an abort.
        """
        data = text.encode("utf-8", "replace")
        if (fewest := len(data) // self._longestToken) >= limit:
            raise PromptTooLong(tokens=fewest, limit=limit)
        room = len(data) + 16
        ids = self._ffi.new("llama_token[]", room)
        count = self._c.llama_tokenize(self._vocabulary, data, len(data), ids, room, False, True)
        if count < 0:
            raise RuntimeCallFailed(function="llama_tokenize", status=count)
        tokens: list[int] = self._ffi.unpack(ids, count)
        return self._begun(tokens) if begins else tokens

    def _begun(self, tokens: list[int]) -> list[int]:
        begin = self._c.llama_vocab_bos(self._vocabulary)
        wants = self._c.llama_vocab_get_add_bos(self._vocabulary) and begin >= 0 and tokens[:1] != [begin]
        return [begin, *tokens] if wants else tokens

    def piece(self, token: int, *, special: bool) -> bytes:
        """The bytes of a token of this model; none for a special one unless asked for."""
        count = self._c.llama_token_to_piece(self._vocabulary, token, self._piece, len(self._piece), 0, special)
        if count < 0:  # the room that it needs, negated
            self._piece = self._ffi.new("char[]", -count)
            return self.piece(token, special=special)
        data: bytes = self._ffi.unpack(self._piece, count)
        return data

    def text(self, token: int) -> str:
        """The text of a token, special or not; "" for none, which is negative."""
        return self.piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    def isEnd(self, token: int) -> bool:
        """Whether a token ends the generation."""
        return bool(self._c.llama_vocab_is_eog(self._vocabulary, token))

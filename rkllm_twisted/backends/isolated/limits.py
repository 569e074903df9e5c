"""How long a child may take for what, how often it may die, and how large it may grow."""

from __future__ import annotations

from msgspec import Struct

from rkllm_twisted.values import InputType, RKLLMInput

NOT_KNOWN = 2**31
"""Tokens, where nobody knows how many: more than any prompt has."""


class Limits(Struct, frozen=True):
    """Limits of a child. What takes longer hangs: the child is killed.

    Attributes:
        init: Seconds for loading a model, and for every other function but a run.
        prefill: Seconds from the start of a run to its first result, whatever its prompt.
        prefillToken: Seconds more for each token of the prompt. Reported: 15 s for 1024 tokens, 71 s for 4096, 226 s
            for 8192, of a model of 1.7 billion parameters on an RK3588 (NotPunchnox/rkllama issue 169); this is about
            twice that.
        token: Seconds from one result to the next.
        abort: Seconds from an abort to the end of the run, and for `destroy`. In prefill the limit of the prefill
            counts, where that is later: there the NPU's runtime is deaf to aborts (airockchip/rknn-llm issue 400).
        crashes: So many deaths within ``crashSeconds`` are a crash loop: the child is not started again.
        crashSeconds: Seconds.
        memory: Bytes of resident memory above which a child is exchanged for a new one between two runs; None is none.
        memorySeconds: Seconds from one look at its memory to the next.
    """

    init: float = 600.0
    prefill: float = 60.0
    prefillToken: float = 0.06
    token: float = 60.0
    abort: float = 30.0
    crashes: int = 5
    crashSeconds: float = 60.0
    memory: int | None = None
    memorySeconds: float = 5.0

    def ofPrefill(self, inputs: list[RKLLMInput], contextLength: int, around: int = 0) -> float:
        """Seconds that the first result of a run may take.

        Args:
            inputs: Of the run.
            contextLength: The most tokens that a prompt may have.
            around: The most tokens that the model puts around each.
        """
        tokens = sum(min(_tokens(input) + around, contextLength) for input in inputs)
        return self.prefill + self.prefillToken * tokens


def _tokens(input: RKLLMInput) -> int:
    """The most tokens that an input can be: each has a byte at least. What images are in tokens is not known."""
    if input.token_input is not None and input.input_type is InputType.RKLLM_INPUT_TOKEN:
        return input.token_input.n_tokens
    if input.embed_input is not None and input.input_type is InputType.RKLLM_INPUT_EMBED:
        return input.embed_input.n_tokens
    if input.prompt_input is not None and input.input_type is InputType.RKLLM_INPUT_PROMPT:
        return len(input.prompt_input.encode())
    return NOT_KNOWN

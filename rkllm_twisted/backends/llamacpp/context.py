"""A context in C's memory: what is computed, and the KV caches of its sequences.

A *place* is what one position of a sequence holds: the id of a token, or the bytes of a row of float32 that stands for
one. Nothing here remembers what is where; `sequence` does.
"""

from __future__ import annotations

from typing import Any

from rkllm_twisted.backends.llamacpp.library import Library
from rkllm_twisted.errors import RuntimeCallFailed

Place = int | bytes

BLOCK = 64
"""The most places of one computation, and the unit in which a common prefix is reused: what is computed in the same
blocks comes out the same to the bit. Prefill with 256 is no faster on a CPU, with 32 a fifth slower (measured)."""
DECODED, STOPPED = 0, 2  # answers of llama_decode


class Stopped(Exception):
    """The computation was stopped by its `StopFlag`; what it had not finished is in no KV cache."""


class StopFlag:
    """Two bytes that llama.cpp looks at between the nodes of a computation. Of any thread, at any time."""

    def __init__(self, library: Library) -> None:
        self.bytes = library.ffi.new("char[2]")

    def set(self) -> None:
        """Stop whatever is computed, now and until `clear`."""
        self.bytes[0] = b"x"

    def clear(self) -> None:
        """Take every earlier `set` back."""
        self.bytes[0] = b"\0"

    def isSet(self) -> bool:
        """Whether computations are to stop."""
        return bool(self.bytes[0] != b"\0")


class Context:
    """The KV caches of one or more sequences of the same length, and the computation that fills them.

    One thread at a time may call it.

    Args:
        library: The functions.
        pointer: Of the context, freed by whoever made it.
        model: Its model.
        stop: Makes computations raise `Stopped`.
        length: The places that each sequence may hold. llama.cpp rounds up to 256; this is what was asked for.
        sequences: How many there are.

    Attributes:
        pointer: Of the context, for the samplers.
        inWidth: Numbers in a row of embeddings that goes in.
        outWidth: Numbers in a row of hidden states.
        vocabularySize: Numbers in a row of logits.
        canShift: Whether places may be moved to other positions.
    """

    def __init__(
        self, library: Library, pointer: Any, model: Any, stop: StopFlag, *, length: int, sequences: int
    ) -> None:
        self.pointer = pointer
        self.stop = stop
        self.length = length
        self.sequences = sequences
        self._library = library
        self._c, self._ffi = library.c, library.ffi
        self._memory = self._c.llama_get_memory(pointer)
        self.canShift = bool(self._c.llama_memory_can_shift(self._memory))
        self.inWidth: int = self._c.llama_model_n_embd_inp(model)
        self.outWidth: int = self._c.llama_model_n_embd_out(model)
        self.vocabularySize: int = self._c.llama_vocab_n_tokens(self._c.llama_model_get_vocab(model))
        # A computation may have a place of every sequence.
        self._batch = _Batch(library, max(BLOCK, sequences), 0)
        self._rows: _Batch | None = None
        self._givesHidden = False

    def free(self) -> None:
        """Free the room for input. A call that comes too late is then a TypeError and not a read of freed memory."""
        self._batch.free()
        if self._rows is not None:
            self._rows.free()
        self.pointer = self._memory = None

    # Computation

    def compute(self, sequence: int, position: int, places: list[Place], outputs: int) -> None:
        """Put places of one kind behind what a sequence holds.

        Args:
            sequence: Which.
            position: How many places it holds.
            places: At most `BLOCK`, all tokens or all rows; there is room for them.
            outputs: Of how many, counted from the last, logits and hidden states are wanted.

        Raises:
            Stopped: Nothing was put.
            RuntimeCallFailed: llama.cpp failed; nothing was put.
        """
        count = len(places)
        batch = self._filled(places)
        batch.c.pos[0:count] = range(position, position + count)
        asked = count if self._givesHidden else outputs  # hidden states are given of every place, asked for or not
        batch.c.logits[0:count] = [0] * (count - asked) + [1] * asked
        batch.assign([sequence] * count)
        self._decode(batch)

    def step(self, sequences: list[int], positions: list[int], tokens: list[int]) -> None:
        """Put a token behind what each of some sequences holds, with logits for each.

        Raises:
            Stopped, RuntimeCallFailed: Some sequences may hold their token, and others not.
        """
        batch, count = self._batch, len(tokens)
        batch.c.n_tokens = count
        batch.c.token[0:count] = tokens
        batch.c.pos[0:count] = positions
        batch.c.logits[0:count] = [1] * count
        batch.assign(sequences)
        self._decode(batch)

    def _filled(self, places: list[Place]) -> _Batch:
        if isinstance(places[0], bytes):
            self._rows = self._rows or _Batch(self._library, BLOCK, self.inWidth)
            self._ffi.memmove(self._rows.c.embd, b"".join(places), len(places) * self.inWidth * 4)  # type: ignore[arg-type]  # all of one kind
            self._rows.c.n_tokens = len(places)
            return self._rows
        self._batch.c.token[0 : len(places)] = places
        self._batch.c.n_tokens = len(places)
        return self._batch

    def _decode(self, batch: _Batch) -> None:
        with self._library.reasons() as reasons:
            status: int = self._c.llama_decode(self.pointer, batch.c)
            if status == STOPPED:
                raise Stopped
            if status != DECODED:
                raise RuntimeCallFailed(reasons(), function="llama_decode", status=status)

    def logits(self, rows: int) -> bytes:
        """A copy of the last so many rows of logits of the last computation, ``rows`` × ``vocabularySize`` float32."""
        return self._copied(self._c.llama_get_logits(self.pointer), rows * self.vocabularySize)

    def hiddenStates(self, skipped: int, rows: int) -> bytes:
        """A copy of hidden states of the last computation, after the final norm, ``rows`` × ``outWidth`` float32.

        Args:
            skipped: How many rows to leave out at the front: with hidden states switched on every place has one.
            rows: How many to copy.
        """
        start = self._c.llama_get_embeddings(self.pointer) + skipped * self.outWidth
        return self._copied(start, rows * self.outWidth)

    def _copied(self, start: Any, count: int) -> bytes:
        return bytes(self._ffi.buffer(start, count * 4))

    def giveHiddenStates(self, isWanted: bool) -> None:
        """Whether the computations from here on give hidden states."""
        self._givesHidden = isWanted
        self._c.llama_set_embeddings(self.pointer, isWanted)

    def useAdapter(self, adapter: Any, scale: float) -> None:
        """Compute with a LoRA adapter from here on; None is the base model."""
        adapters = self._ffi.new("llama_adapter_lora *[1]", [self._ffi.NULL if adapter is None else adapter])
        scales = self._ffi.new("float[1]", [scale])
        status = self._c.llama_set_adapters_lora(self.pointer, adapters, int(adapter is not None), scales)
        if status:
            raise RuntimeCallFailed(function="llama_set_adapters_lora", status=status)

    # The KV caches

    def cut(self, sequence: int, position: int) -> bool:
        """Forget what a sequence holds from a position on.

        Returns:
            False if this kind of cache can only be forgotten whole; it is left as it was.
        """
        return bool(self._c.llama_memory_seq_rm(self._memory, sequence, position, -1))

    def close(self, sequence: int, start: int, end: int) -> None:
        """Forget the places from ``start`` to before ``end`` and move what follows to close the gap.

        Only with `canShift`: llama.cpp ends the process otherwise.
        """
        self._c.llama_memory_seq_rm(self._memory, sequence, start, end)
        self._c.llama_memory_seq_add(self._memory, sequence, end, -1, start - end)

    def count(self, sequence: int) -> int:
        """How many places a sequence holds."""
        return int(self._c.llama_memory_seq_pos_max(self._memory, sequence)) + 1

    def saved(self, sequence: int) -> bytes:
        """The KV cache of a sequence, to be given to `restore`."""
        size = self._c.llama_state_seq_get_size(self.pointer, sequence)
        room = self._ffi.new("uint8_t[]", size)
        return bytes(self._ffi.buffer(room, self._c.llama_state_seq_get_data(self.pointer, room, size, sequence)))

    def restore(self, sequence: int, saved: bytes) -> bool:
        """Make a sequence hold what was saved.

        Args:
            sequence: Which.
            saved: Whole and of the same model and release: llama.cpp may end the process over anything else.

        Returns:
            False if it did not work; the sequence then holds nothing.
        """
        self.cut(sequence, 0)
        done = self._c.llama_state_seq_set_data(
            self.pointer, self._ffi.from_buffer("uint8_t[]", saved), len(saved), sequence
        )
        if not done:
            self.cut(sequence, 0)
        return bool(done)


class _Batch:
    """Room for the input of a computation."""

    def __init__(self, library: Library, size: int, width: int) -> None:
        self._free = library.c.llama_batch_free
        self.c = library.c.llama_batch_init(size, width, 1)
        self._sequences = [0] * size
        for row in range(size):
            self.c.n_seq_id[row], self.c.seq_id[row][0] = 1, 0

    def assign(self, sequences: list[int]) -> None:
        """Say of which sequence each row is."""
        for row, sequence in enumerate(sequences):
            if self._sequences[row] != sequence:
                self._sequences[row] = self.c.seq_id[row][0] = sequence

    def free(self) -> None:
        self._free(self.c)

"""What a GGUF file says of itself, read before llama.cpp may see it.

llama.cpp answers a bad file with an error in nearly every case, but a few end the process. Those that damage can cause
were found by loading thousands of mutated headers: two equal tokens in the vocabulary (``id_to_token.size() ==
token_to_id.size()`` in llama-vocab.cpp, 1 mutation in 100), an impossible number of layers (llama-model.cpp, 1 in
3000); and by writing every type in the place of every other: weights that cannot be computed with, an unknown scaling
of positions. So these are looked for here first. The other way, loading an unknown file once in a child process, would
cover faults that nobody knows of yet, but costs a process, twice the loading time and twice the memory for every init;
whoever takes files from strangers runs the whole backend in a child process.

A file that lacks its end is refused by llama.cpp itself, but it is asked only when the model before it has been freed:
so the length is looked at here too.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import os
import stat
import struct
from dataclasses import dataclass, field
from typing import BinaryIO

from rkllm_twisted.ranges import cut

MAGIC = b"GGUF"
VERSIONS = (2, 3)
FLOAT, STRING, ARRAY = 6, 8, 9
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
TOKENS = "tokenizer.ggml.tokens"
MAX_LAYERS = 512
"""LLAMA_MAX_LAYERS of llama-hparams.h."""
MAX_TENSORS = 65536
"""128 for each of the most layers, a bound on the time that a damaged file takes."""
MAX_DIMENSIONS = 4
"""GGML_MAX_DIMS of ggml.h."""
DEFAULT_ALIGNMENT = 32
"""GGUF_DEFAULT_ALIGNMENT of gguf.h."""
BLOCKS = {
    0: (1, 4),  # F32
    1: (1, 2),  # F16
    2: (32, 18),  # Q4_0
    3: (32, 20),  # Q4_1
    6: (32, 22),  # Q5_0
    7: (32, 24),  # Q5_1
    8: (32, 34),  # Q8_0
    10: (256, 84),  # Q2_K
    11: (256, 110),  # Q3_K
    12: (256, 144),  # Q4_K
    13: (256, 176),  # Q5_K
    14: (256, 210),  # Q6_K
    16: (256, 66),  # IQ2_XXS
    17: (256, 74),  # IQ2_XS
    18: (256, 98),  # IQ3_XXS
    19: (256, 50),  # IQ1_S
    20: (32, 18),  # IQ4_NL
    21: (256, 110),  # IQ3_S
    22: (256, 82),  # IQ2_S
    23: (256, 136),  # IQ4_XS
    24: (1, 1),  # I8
    25: (1, 2),  # I16
    26: (1, 4),  # I32
    27: (1, 8),  # I64
    28: (1, 8),  # F64
    29: (256, 56),  # IQ1_M
    30: (1, 2),  # BF16
    34: (256, 54),  # TQ1_0
    35: (256, 66),  # TQ2_0
    39: (32, 17),  # MXFP4
    40: (64, 36),  # NVFP4
    41: (128, 18),  # Q1_0
}
"""How many weights of a type make a block and how many bytes that takes (ggml_blck_size and ggml_type_size of ggml.h).
The types of what is only computed, Q8_1 and Q8_K, are in no file."""
NUMBERS = frozenset(BLOCKS) - {24, 25, 26, 27, 28}
"""The types of weights that can be computed with: not the integers, and not F64."""
F32 = 0
IDS = "tid2eid"
"""Part of the names of the only tensors of integers that there are in models: tables of which expert serves a token."""
SCALINGS = ("none", "linear", "yarn", "longrope")
"""How positions may be scaled (LLAMA_ROPE_SCALING_TYPES of llama-model.cpp)."""
PLACE = 600
"""Bytes that each place of a context takes beside the cache itself: 512 for the attention mask of a batch of 256
tokens, the rest for bookkeeping (measured)."""
UNUSUAL = ("sliding_window", "lora_rank", ".ssm.", "full_attention_interval", ".recurrent", "shared_kv_layers")
"""Parts of keys of models whose cache is smaller than the usual reckoning."""


class BadFile(Exception):
    """The file is missing, unreadable or not a model. The message does not name it."""


class MissingFile(BadFile):
    """There is no such file."""


@dataclass(frozen=True)
class Tensor:
    """What a file says of one of its tensors.

    Attributes:
        kind: The type of its weights, as ggml numbers it.
        dimensions: How many there are along each dimension, the innermost first.
    """

    kind: int
    dimensions: tuple[int, ...]


@dataclass
class Header:
    """The header of a GGUF file.

    Attributes:
        values: Every number, truth value and string in it; arrays are left out.
        kinds: The types of all values, arrays among them, as GGUF numbers them.
        tensors: The tensors by their names.
        longestToken: The most bytes that one token of its vocabulary stands for, or a little more, as a byte above 127
            is spelled with two; 0 if there are none.
    """

    values: dict[str, object] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    longestToken: int = 0

    @property
    def contextLimit(self) -> int | None:
        """The longest context, in tokens, that the model was trained for; None if it does not say."""
        return self.number("context_length")

    def contextBytes(self, tokens: int) -> int:
        """What a context takes, its KV cache with 16-bit values; 0 where the header does not tell.

        Asked before llama.cpp is: it fills the cache when it makes it, and the kernel ends a process that touches more
        memory than there is.
        """
        layers, width, heads = (self.number(f) for f in ("block_count", "embedding_length", "attention.head_count"))
        if not layers or not width or not heads or any(part in key for key in self.values for part in UNUSUAL):
            return 0
        keys = self.number("attention.key_length") or width // heads
        values = self.number("attention.value_length") or width // heads
        return tokens * (layers * (self.number("attention.head_count_kv") or 1) * (keys + values) * 2 + PLACE)

    def number(self, name: str) -> int | None:
        """A whole number among the values that describe its architecture; None where there is none of that name."""
        value = self.values.get(f"{self.values.get('general.architecture')}.{name}")
        return value if isinstance(value, int) else None


def withoutWaiting(path: str, flags: int) -> int:
    """Open a file, as an ``opener`` of ``open``: a named pipe that nobody writes to cannot hold us. For regular files
    it makes no difference.
    """
    return os.open(path, flags | os.O_NONBLOCK)


def readHeader(path: str) -> Header:
    """Read and check the header of a file. May block for as long as the disk takes (50 ms for 49152 tokens).

    Raises:
        BadFile: It is a directory, unreadable, not GGUF, cut off, or would end the process in llama.cpp.
        MissingFile: It is missing.
    """
    try:
        with open(path, "rb", buffering=1 << 20, opener=withoutWaiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BadFile("not a regular file")
            return _Reader(file, status.st_size).header()
    except FileNotFoundError:
        raise MissingFile("no such file or directory") from None
    except IsADirectoryError:
        raise BadFile("is a directory") from None
    except OSError as error:
        raise BadFile(os.strerror(error.errno or 0).lower()) from None
    except ValueError as error:  # a NUL or a lone surrogate in the path
        raise BadFile(f"not a path ({error})") from None


def checkModel(header: Header) -> None:
    """Refuse a model over which llama.cpp would end the process, in loading it or in its first computation.

    Raises:
        BadFile: It is one.
    """
    scaling = header.values.get(f"{header.values.get('general.architecture')}.rope.scaling.type", "none")
    if scaling not in SCALINGS:
        raise BadFile(f"it says that its positions are scaled by {scaling!r}, expected {', '.join(SCALINGS)}")
    for name, tensor in header.tensors.items():
        if tensor.kind not in NUMBERS and IDS not in name:
            raise BadFile(f"the weights of {cut(name)!r} have the type {tensor.kind}, which cannot be computed with")
        if len(tensor.dimensions) == 1 and tensor.kind != F32:
            raise BadFile(f"the weights of {cut(name)!r} have the type {tensor.kind}, expected {F32}")


class _Reader:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def header(self) -> Header:
        magic = self._file.read(len(MAGIC))
        if magic != MAGIC:
            raise BadFile(f"not a GGUF model: it begins with {magic!r}" if magic else "the file is empty")
        version = self._number("<I")
        if version not in VERSIONS:
            raise BadFile(f"GGUF version {version}, expected 2 or 3")
        tensors = self._number("<Q")
        header = Header()
        for _ in range(self._count(self._number("<Q"))):
            self._pair(header)
        layers = header.number("block_count")
        if layers is not None and not 1 <= layers <= MAX_LAYERS:
            raise BadFile(f"it says that it has {layers} layers, expected 1 to {MAX_LAYERS}")
        self._checkLength(header, tensors)
        return header

    def _checkLength(self, header: Header, tensors: int) -> None:
        alignment = header.values.get("general.alignment", DEFAULT_ALIGNMENT)
        if tensors > MAX_TENSORS:
            raise BadFile(f"it says that it has {tensors} tensors, expected at most {MAX_TENSORS}")
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise BadFile(f"it says that its tensors are aligned to {alignment!r}, expected a power of 2")
        if not (length := max((self._tensorEnd(header) for _ in range(tensors)), default=0)):
            return
        end = -(-self._file.tell() // alignment) * alignment + length
        if end > self._size:
            raise BadFile(f"the file is cut off: it lacks {end - self._size} of its {end} bytes")

    def _tensorEnd(self, header: Header) -> int:
        name, dimensions = self._string().decode("utf-8", "replace"), self._number("<I")
        if dimensions > MAX_DIMENSIONS:
            raise BadFile(f"a tensor has {dimensions} dimensions, expected at most {MAX_DIMENSIONS}")
        shape = tuple(self._number("<Q") for _ in range(dimensions))
        weights = math.prod(shape)
        kind, offset = self._number("<I"), self._number("<Q")
        header.tensors[name] = Tensor(kind, shape)
        block, size = BLOCKS.get(kind, (max(1, weights), 1))  # of an unknown type: a byte for all of them
        return offset + weights // block * size

    def _pair(self, header: Header) -> None:
        key, kind = self._string().decode("utf-8", "replace"), self._number("<I")
        header.kinds[key] = kind
        if kind != ARRAY:
            header.values[key] = self._value(key, kind)
            return
        kind, count = self._number("<I"), self._count(self._number("<Q"))
        if kind == STRING and key == TOKENS:
            tokens = [self._string() for _ in range(count)]
            checkDistinct(tokens)
            header.longestToken = max(map(len, tokens), default=0)
        elif kind == STRING:
            for _ in range(count):
                self._string()
        elif kind in SCALARS:
            self._bytes(count * struct.calcsize(SCALARS[kind]))
        else:
            raise BadFile(f"the value of {key!r} has the unknown type {kind}")

    def _value(self, key: str, kind: int) -> object:
        if kind == STRING:
            return self._string().decode("utf-8", "replace")
        if kind not in SCALARS:
            raise BadFile(f"the value of {key!r} has the unknown type {kind}")
        return struct.unpack(SCALARS[kind], self._bytes(struct.calcsize(SCALARS[kind])))[0]

    def _string(self) -> bytes:
        return self._bytes(self._count(int.from_bytes(self._bytes(8), "little")))

    def _number(self, form: str) -> int:
        value: int = struct.unpack(form, self._bytes(struct.calcsize(form)))[0]
        return value

    def _count(self, count: int) -> int:
        if count > self._size:  # every element takes a byte at least
            raise BadFile(f"the header is damaged: it announces {count} elements in a file of {self._size} bytes")
        return count

    def _bytes(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise BadFile(f"the file is cut off: its header goes on after its {self._size} bytes")
        return data


def checkDistinct(tokens: list[bytes]) -> None:
    """Refuse a vocabulary in which llama.cpp would see two equal tokens.

    It reads a token as a C string, to the first NUL, and gives an empty one the name ``[EMPTY_n]``.
    """
    seen: dict[bytes, int] = {}
    for index, token in enumerate(tokens):
        name = token.partition(b"\0")[0] or b"[EMPTY_%d]" % index
        if (first := seen.setdefault(name, index)) != index:
            raise BadFile(
                f"tokens {first} and {index} of its vocabulary are equal ({name.decode('utf-8', 'replace')!r})"
            )

"""llama.cpp on the CPU: the backend for machines without an NPU.

The C library comes out of a binary wheel (`providers`) and is called through cffi at the level of ``llama.h``; nothing
is compiled. Importing this package is light: cffi, jinja2 and the shared object wait for the first model.

The rooms, from the outside in::

    runtime.py       IRuntime: parameters -> a model
    models.py        the name that a client gives -> a file
    header.py        what the file says of itself, before llama.cpp may see it
    checking.py      which parameters are refused, in whose words
    model.py         IRuntimeModel: the functions of RKLLM
    inputs.py        the input of a run -> places: tokens, and rows of embeddings
    prompting.py     a prompt -> a turn, with tools or without
    template.py      turns -> the text that the model was trained on
    sequence.py      which places are in the KV cache, and which must be computed
    generation.py    one run: places in, results out
    sampling.py      logits -> a token
    tensors.py       logits and hidden states -> results
    adapters.py      LoRA adapters by their names
    promptcache.py   a KV cache -> a file, and back
    loaded.py        a model in C's memory
    context.py       its KV caches, and the computation
    vocabulary.py    text -> tokens -> text
    library.py       the C functions, opened once in a process
    providers.py     which wheel has them
    declarations.py  what they look like
"""

from __future__ import annotations

import os
import re
from importlib.util import find_spec

from rkllm_twisted.backends.llamacpp.providers import NoProvider, findProvider
from rkllm_twisted.interfaces import IRuntime

MAX_THREADS = 256  # of the 512 that ggml allows
MAX_SEED = 2**32 - 2  # llama.cpp reads the largest uint32 as "take a random one"


def unusable() -> str | None:
    """Why this backend cannot run here and what to do about it; None if it can. Opens no library."""
    try:
        findProvider()
    except NoProvider as reason:
        return str(reason)
    if find_spec("jinja2") is None:
        return 'jinja2 is not installed; pip install "rkllm-twisted[cpu]"'
    return None


def makeBackend(options: dict[str, str]) -> IRuntime:
    """The runtime for ``llamacpp:key=value:…``.

    Args:
        options: ``threads``, how many threads compute, at most one for each CPU that this process may use (default:
            half of them, at least 1 and at most 8); ``seed``, which makes sampling repeatable from run to run (default:
            random for each run).

    Raises:
        ValueError: An option is unknown, or its value is wrong.
    """
    given = dict(options)
    cpus = min(MAX_THREADS, len(os.sched_getaffinity(0)))
    threads = _integer("threads", given.pop("threads", None), 1, cpus, ", the CPUs that this process may use")
    seed = _integer("seed", given.pop("seed", None), 0, MAX_SEED)
    for name in given:
        raise ValueError(f"llamacpp: unknown option {name!r}, expected threads or seed")

    from rkllm_twisted.backends.llamacpp.runtime import LlamaRuntime

    return LlamaRuntime(threads=threads or defaultThreads(cpus), seed=seed)


def defaultThreads(cores: int) -> int:
    """Half the cores, 1 to 8.

    OpenMP's threads wait by spinning, so that on busy cores one thread too many can halve the rate (measured: 118
    tokens/s with two threads on two idle cores, 40 on busy ones), and the reactor wants a core of its own. Decoding is
    bound by memory: beyond a few threads it gains nothing.
    """
    return max(1, min(8, cores // 2))


def _integer(name: str, value: str | None, low: int, high: int, why: str = "") -> int | None:
    if value is None:
        return None
    if not re.fullmatch("[0-9]{1,10}", value) or not low <= int(value) <= high:
        raise ValueError(f"llamacpp: {name} should be a whole number from {low} to {high}{why}, got {value!r}")
    return int(value)

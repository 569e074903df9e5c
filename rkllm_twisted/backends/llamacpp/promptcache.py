"""Prompt cache files: the KV cache of a prompt, to be found again by a later run or a later daemon.

llama.cpp's own files are not used: it ends the process over one that was cut off, and takes damage inside the data in
silence (measured). A file here is checked whole before llama.cpp sees any of it: magic, SHA-256 of all that follows,
length of the description, the description (which model, which adapter, which places), the state.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import msgspec
from msgspec import Struct

from rkllm_twisted.backends.llamacpp.context import Place
from rkllm_twisted.backends.llamacpp.header import withoutWaiting
from rkllm_twisted.backends.unfinished import Unfinished
from rkllm_twisted.errors import RuntimeCallFailed
from rkllm_twisted.values import RKLLMPromptCacheParam

MAGIC = b"RKCACHE1"
DIGEST = hashlib.sha256().digest_size
"""Bytes of the SHA-256 behind it."""
DEFAULT_PATH = "prompt_cache.bin"
"""Where a cache is saved to if no path is given (manual 1.3.0, section 3.2.3)."""
SAMPLES, SAMPLE = 64, 4096
"""How many parts of a model file its `fingerprint` looks at, and how many bytes each has."""


class PromptCache(Struct, frozen=True):
    """The KV cache of some places.

    Attributes:
        places: What was computed.
        adapter: With which LoRA adapter, as `adapters.Adapter.key`; "" for none.
        state: What `context.Context.saved` gave.
    """

    places: list[Place]
    adapter: str
    state: bytes


class _Description(Struct):
    model: str
    adapter: str
    places: list[int | bytes]


class BadCache(Exception):
    """The file is no prompt cache of this model. The message does not name it."""


def fingerprint(path: str, release: str) -> str:
    """What tells a model file from others: its header, its length, and samples of its weights.

    Args:
        path: The file.
        release: Of the library, whose states other releases may not understand.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(f"{release} {size} ".encode())
        for sample in range(SAMPLES):
            file.seek(size * sample // SAMPLES)
            digest.update(file.read(SAMPLE))
    return digest.hexdigest()


def targetOf(param: RKLLMPromptCacheParam | None) -> str | None:
    """Where a run is to save its prompt's cache; None if it is not to.

    Raises:
        RuntimeCallFailed: As `checkTarget`.
    """
    if param is None or not param.save_prompt_cache:
        return None
    path = param.prompt_cache_path or DEFAULT_PATH
    checkTarget(path)
    return path


def checkTarget(path: str) -> None:
    """Refuse what a cache cannot be saved to, before the run that is to save it.

    Raises:
        RuntimeCallFailed: The directory is missing or cannot be written to, or something else than a cache is there.
    """
    directory = os.path.dirname(path) or "."
    if not os.path.isdir(directory):
        raise failed("the directory to save it in does not exist")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise failed("the directory to save it in cannot be written to")
    if os.path.lexists(path) and not _isCache(path):
        raise failed("what is there already is no prompt cache, and stays")


def _isCache(path: str) -> bool:
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return False
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def save(path: str, cache: PromptCache, model: str) -> None:
    """Write a file, whole or not at all, readable by its owner only.

    Args:
        path: The file; one that is there is replaced.
        cache: What to write.
        model: The `fingerprint` of its model.

    Raises:
        RuntimeCallFailed: It cannot be written.
    """
    checkTarget(path)
    described = msgspec.msgpack.encode(_Description(model, cache.adapter, cache.places))
    body = [len(described).to_bytes(8, "little"), described, cache.state]
    digest = hashlib.sha256()
    for part in body:
        digest.update(part)
    try:
        _replace(Path(path), [MAGIC, digest.digest(), *body])
    except OSError as error:
        raise failed(os.strerror(error.errno or 0).lower()) from None


def _replace(path: Path, parts: list[bytes]) -> None:
    unfinished = Unfinished(str(path.parent))
    try:
        with open(unfinished.path, "xb", opener=_forItsOwner) as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished.path, path)
    finally:
        unfinished.close()


def _forItsOwner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def load(path: str, model: str, limit: int) -> PromptCache:
    """Read and check a file.

    Args:
        path: The file.
        model: The `fingerprint` of the model that is to use it.
        limit: The most places that fit, so that one more can be computed.

    Raises:
        BadCache: It is missing, unreadable, something else, damaged, of another model, or too long.
    """
    try:
        with open(path, "rb", opener=withoutWaiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BadCache("not a regular file")
            if file.read(len(MAGIC)) != MAGIC:
                raise BadCache("not a prompt cache, or one of another release")
            digest, body = file.read(DIGEST), file.read()
    except OSError as error:
        raise BadCache(os.strerror(error.errno or 0).lower()) from None
    if hashlib.sha256(body).digest() != digest:
        raise BadCache("damaged: its contents are not what was written")
    end = 8 + int.from_bytes(body[:8], "little")
    try:
        described = msgspec.msgpack.decode(body[8:end], type=_Description)
    except msgspec.DecodeError:
        raise BadCache("not a prompt cache, though it begins like one") from None
    if described.model != model:
        raise BadCache("of another model, or of another release of llama.cpp")
    if len(described.places) >= limit:
        raise BadCache(f"of {len(described.places)} tokens, the context holds {limit} and needs room for one more")
    return PromptCache(list(described.places), described.adapter, body[end:])


def failed(reason: str) -> RuntimeCallFailed:
    """The error for a prompt cache that cannot be saved."""
    return RuntimeCallFailed(f"the prompt cache cannot be saved: {reason}", function="rkllm_run", status=-1)

"""Tiny models of other architectures, made of one that `tests.tiny_model` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.tiny_model import HEADS, KV_HEADS, LAYERS, WIDTH

HEAD = WIDTH // HEADS


def writeVariant(source: Path, path: Path, arch: str, values: dict[str, Any], tensors: dict[str, np.ndarray]) -> Path:
    """Write a model again as one of another architecture.

    Args:
        source: A tiny model.
        path: The file to write.
        arch: The architecture.
        values: What it says of itself beside what the tiny model says, without the architecture in the keys.
        tensors: The tensors that it has beside those of the tiny model.
    """
    reader, writer = gguf.GGUFReader(source), gguf.GGUFWriter(path, arch)
    for key, field in reader.fields.items():
        if not key.startswith(("GGUF.", "general.architecture")):
            inner = field.types[1] if field.types[0] is gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key.replace("llama.", f"{arch}.", 1), field.contents(), field.types[0], inner)
    for key, value in values.items():
        kind = gguf.GGUFValueType.UINT32 if isinstance(value, int) else gguf.GGUFValueType.get_type(value)
        writer.add_key_value(f"{arch}.{key}", value, kind)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    for name, data in tensors.items():
        writer.add_tensor(name, data.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def writeQwen2VL(source: Path, path: Path) -> Path:
    """A model whose positions have several dimensions (M-RoPE)."""
    biases = {"q": WIDTH, "k": HEAD * KV_HEADS, "v": HEAD * KV_HEADS}
    tensors = {f"blk.{n}.attn_{part}.bias": np.zeros(size) for n in range(LAYERS) for part, size in biases.items()}
    return writeVariant(source, path, "qwen2vl", {"rope.dimension_sections": [4, 2, 2, 0]}, tensors)


def writeGemma3(source: Path, path: Path) -> Path:
    """A model that reads the rows of an image in both directions."""
    norms = {"attn_q_norm": HEAD, "attn_k_norm": HEAD, "post_attention_norm": WIDTH, "post_ffw_norm": WIDTH}
    tensors = {f"blk.{n}.{part}.weight": np.ones(size) for n in range(LAYERS) for part, size in norms.items()}
    values = {"attention.sliding_window": 32, "attention.key_length": HEAD, "attention.value_length": HEAD}
    return writeVariant(source, path, "gemma3", values, tensors)

"""LoRA adapters of any contents, and the runs that choose one."""

from __future__ import annotations

from types import MappingProxyType

import gguf
import numpy as np

from rkllm_twisted.values import RKLLMLoraAdapter, RKLLMLoraParam
from tests.tiny_model import WIDTH, writeFile

QUERY, OUTPUT, EMBEDDING = "blk.0.attn_q.weight", "output.weight", "token_embd.weight"
"""Tensors of tiny models that an adapter may change."""


def loadAdapter(model, path, name="one", scale=1.0):
    """Load an adapter under a name."""
    model.loadLora(RKLLMLoraAdapter(lora_adapter_path=str(path), lora_adapter_name=name, scale=scale))


def chosen(name):
    """The field of inference parameters that chooses an adapter."""
    return {"lora_params": RKLLMLoraParam(lora_adapter_name=name)}


VALUES = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 4.0}


def writeTensors(path, tensors, values=MappingProxyType({})):
    """An adapter of any tensors and values: None leaves one out, a tuple has its type behind it."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in {**VALUES, **values}.items():
        writer.kv_data[0].pop(key, None)
        value, kind = value if isinstance(value, tuple) else (value, gguf.GGUFValueType.get_type(value or 0))
        if value is not None:
            writer.add_key_value(key, value, kind)
    return writeFile(writer, tensors, path)


def pair(name, rank=4, inner=WIDTH, outer=WIDTH, spread=0.3, kind=np.float32, seed=1):
    """The two halves of a change of a tensor with ``outer`` rows of ``inner`` numbers."""
    rng = np.random.default_rng(seed)
    return {
        f"{name}.lora_a": (rng.standard_normal((rank, inner)) * spread).astype(kind),
        f"{name}.lora_b": (rng.standard_normal((outer, rank)) * spread).astype(kind),
    }

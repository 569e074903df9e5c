"""Loading a model: parameters, the file, and what the library may do wrong."""

import os

import pytest
from msgspec import structs

from rkllm_twisted.backends.rkllm import cpus
from rkllm_twisted.backends.rkllm.cpus import chosenCPUs
from rkllm_twisted.backends.rkllm.families import FAMILIES
from rkllm_twisted.errors import InvalidParams, ModelLoadFailed, NotSupported
from rkllm_twisted.values import RKLLMExtendParam, RKLLMParam
from tests.backends.rkllm.running import Run
from tests.standins import everyFamily, needsCompiler

pytestmark = needsCompiler


@pytest.fixture
def usable(monkeypatch):
    """A function that sets which CPUs this process may use."""
    return lambda *numbers: monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(numbers))


# Parameters


@everyFamily
def test_defaults_are_documented_and_load(key, runtime, load, library, usable):
    usable(*range(8))
    param = runtime(key).createDefaultParam()
    assert (param.top_k, param.top_p, param.temperature, param.repeat_penalty) == (40, 0.9, 0.8, 1.1)
    assert (param.max_context_len, param.max_new_tokens, param.n_keep) == (4096, 512, -1)
    runtime(key).checkParam(structs.replace(param, model_path=library.model))
    load(key)
    arrived = library.events("init")[0]["param"]
    assert arrived.startswith(
        "max_context_len=4096 max_new_tokens=512 skip_special_token=1 is_async=0 base_domain_id=0"
    )
    if key == "1.1":
        assert param.extend_param == RKLLMExtendParam()
    else:
        assert " n_keep=-1 embed_flash=1 enabled_cpus_num=4 enabled_cpus_mask=240" in arrived


@everyFamily
def test_every_field_arrives(key, load, library, usable):
    usable(*range(8))
    fields = {"max_context_len": 2048, "max_new_tokens": 7, "skip_special_token": False, "is_async": True}
    fields |= {"top_k": 3, "top_p": 0.5, "temperature": 0.25, "repeat_penalty": 1.5, "frequency_penalty": -1.5}
    fields |= {"presence_penalty": 2.5, "mirostat": 1, "mirostat_tau": 4.0, "mirostat_eta": 0.75}
    extend, more = {"base_domain_id": 2}, ""
    if key != "1.1":
        fields["n_keep"] = 5
        extend |= {"embed_flash": 0, "enabled_cpus_num": 3, "enabled_cpus_mask": 0b10110}
        more = " n_keep=5 embed_flash=0 enabled_cpus_num=3 enabled_cpus_mask=22"
    if key in ("1.2.1", "1.3", "1.3.1"):
        extend |= {"n_batch": 2, "use_cross_attn": 1}
        more += " n_batch=2 use_cross_attn=1"
    if key in ("1.3", "1.3.1"):
        fields["ignore_eos_token"] = True
        more += " ignore_eos_token=1"
    else:
        fields |= {"img_start": "a", "img_end": "b", "img_content": "c"}
        more += " img_start=a img_end=b img_content=c"
    load(key, extend=extend, **fields)
    arrived = library.events("init")[0]
    # is_async is never passed on
    assert (
        arrived["param"]
        == "max_context_len=2048 max_new_tokens=7 skip_special_token=0 is_async=0 base_domain_id=2" + more
    )
    assert arrived["sampling"] == (
        "top_k=3 top_p=0.5 temperature=0.25 repeat_penalty=1.5 frequency_penalty=-1.5 presence_penalty=2.5 mirostat=1 "
        "mirostat_tau=4 mirostat_eta=0.75"
    )


@pytest.mark.parametrize(
    ("given", "arrives"),
    [
        ({"max_context_len": 0, "max_new_tokens": 0}, (4096, 512)),
        ({"max_context_len": 64, "max_new_tokens": 0}, (64, 64)),
        ({"max_context_len": 64, "max_new_tokens": -1}, (64, 64)),
        ({"max_context_len": 64, "max_new_tokens": 9999}, (64, 64)),
    ],
)
def test_limits_that_are_left_open(given, arrives, load, library):
    """The library always gets a limit: without one, it goes on for ever."""
    load("1.3", **given)
    assert library.events("init")[0]["param"].startswith(f"max_context_len={arrives[0]} max_new_tokens={arrives[1]} ")


@pytest.mark.parametrize(
    ("key", "fields", "needs"),
    [
        ("1.1", {"n_keep": 4}, "runtime 1.2.0 or newer"),
        ("1.2.1", {"ignore_eos_token": True}, "runtime 1.3.0 or newer"),
        ("1.3", {"img_start": "<"}, "runtime 1.1.0 to 1.2.3"),
        ("1.3.1", {"img_content": "<"}, "runtime 1.1.0 to 1.2.3"),
        ("1.1", {"extend_param": RKLLMExtendParam(embed_flash=1)}, "runtime 1.2.0 or newer"),
        ("1.1", {"extend_param": RKLLMExtendParam(enabled_cpus_mask=1)}, "runtime 1.2.0 or newer"),
        ("1.2.0", {"extend_param": RKLLMExtendParam(n_batch=2)}, "n_batch"),
        ("1.2.1b1", {"extend_param": RKLLMExtendParam(use_cross_attn=1)}, "set_cross_attn_params"),
    ],
)
def test_field_that_a_family_lacks(key, fields, needs, runtime, library):
    param = structs.replace(runtime(key).createDefaultParam(), model_path=library.model, **fields)
    for call in (runtime(key).checkParam, runtime(key).init):
        with pytest.raises(NotSupported, match=r"\$\.param\.") as refused:
            call(param)
        assert refused.value.data == {"needs": needs}
    assert library.calls() == []


@everyFamily
def test_neutral_values_are_no_fields(key, runtime, library):
    """What a client sends that names every field with the value that changes nothing."""
    neutral = RKLLMParam(model_path=library.model, max_context_len=64)
    extend = runtime(key).createDefaultParam().extend_param
    runtime(key).checkParam(structs.replace(neutral, extend_param=extend))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"n_keep": 4096}, r"\$\.param\.n_keep: expected less than max_context_len, 4096, got 4096"),
        ({"n_keep": 4096, "max_context_len": 0}, r"\$\.param\.n_keep: expected less than max_context_len, 4096"),
        ({"temperature": float("nan")}, r"\$\.param\.temperature"),
        ({"top_p": 1.5}, r"\$\.param\.top_p"),
        ({"mirostat": 3}, r"\$\.param\.mirostat"),
        (
            {"extend_param": RKLLMExtendParam(n_batch=0)},
            r"\$\.param\.extend_param\.n_batch: expected integer from 1 to 100",
        ),
        ({"extend_param": RKLLMExtendParam(n_batch=101)}, r"\$\.param\.extend_param\.n_batch"),
        ({"model_path": "a\0b"}, r"\$\.param\.model_path: expected string without NUL"),
    ],
)
def test_parameter_that_is_refused(fields, said, runtime, library):
    param = structs.replace(runtime("1.3").createDefaultParam(), **{"model_path": library.model, **fields})
    for call in (runtime("1.3").checkParam, runtime("1.3").init):
        with pytest.raises(InvalidParams, match=said):
            call(param)
    assert library.calls() == []


# CPUs


@pytest.mark.parametrize(
    ("machine", "count", "mask"),
    [
        (range(8), 4, 0xF0),  # RK3588, RK3576: the big ones
        (range(6), 4, 0b111100),  # issue 474
        (range(4), 4, 0b1111),
        (range(2), 2, 0b11),
        ([1, 3, 6], 3, 0b1001010),
        ([0, 9, 12], 1, 1),  # a mask can name eight
    ],
)
def test_default_cpus(machine, count, mask, usable):
    usable(*machine)
    assert cpus.defaultCPUs() == (count, mask)
    assert chosenCPUs(RKLLMExtendParam(enabled_cpus_num=count, enabled_cpus_mask=mask)) == (count, mask)


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({"enabled_cpus_num": 3, "enabled_cpus_mask": 0xF0}, (3, 0xE0)),  # a client that gives the number alone
        ({"enabled_cpus_num": 3, "enabled_cpus_mask": 0}, (3, 0xE0)),
        ({"enabled_cpus_num": 8, "enabled_cpus_mask": 0}, (8, 0xFF)),
        ({"enabled_cpus_num": 4, "enabled_cpus_mask": 0b11}, (2, 0b11)),  # or the mask alone
        ({"enabled_cpus_num": 1, "enabled_cpus_mask": 0b1000}, (1, 0b1000)),
    ],
)
def test_chosen_cpus(given, chosen, usable):
    usable(*range(8))
    assert chosenCPUs(RKLLMExtendParam(**given)) == chosen


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"enabled_cpus_num": 5, "enabled_cpus_mask": 0},
            r"enabled_cpus_num: expected at most 4.*CPU0, CPU1, CPU2, CPU3",
        ),
        ({"enabled_cpus_num": 1, "enabled_cpus_mask": 0x10}, r"enabled_cpus_mask: expected CPUs .*got 16 \(CPU4\)"),
        ({"enabled_cpus_num": 1, "enabled_cpus_mask": 0x100}, r"enabled_cpus_mask: .*got 256 \(CPU8\)"),
        ({"enabled_cpus_num": 3, "enabled_cpus_mask": 0b11}, r"enabled_cpus_num: expected 2, as many as .*, got 3"),
    ],
)
def test_cpus_that_are_refused(given, said, usable, runtime, library):
    usable(*range(4))
    param = runtime("1.3").createDefaultParam()
    param = structs.replace(param, model_path=library.model, extend_param=RKLLMExtendParam(**given))
    with pytest.raises(InvalidParams, match=rf"\$\.param\.extend_param\.{said}"):
        runtime("1.3").checkParam(param)


# The file


def test_file_that_cannot_be_read(runtime, library, tmp_path):
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "closed").write_text("x")
    (tmp_path / "closed").chmod(0)
    cases = {
        "": "model_path is empty, expected the path of a .rkllm file",
        str(tmp_path / "missing"): "missing: No such file or directory",
        str(tmp_path): "not a file",
        str(tmp_path / "empty"): "empty: the file is empty",
        str(tmp_path / "pipe"): "pipe: not a file",  # opening it would wait for ever
        "x" * 300: "File name too long",
    }
    if os.geteuid() != 0:
        cases[str(tmp_path / "closed")] = "closed: Permission denied"
    for path, said in cases.items():
        param = structs.replace(runtime("1.3").createDefaultParam(), model_path=path)
        for call in (runtime("1.3").checkParam, runtime("1.3").init):
            with pytest.raises(ModelLoadFailed, match=said) as failed:
                call(param)
            assert failed.value.data == {"reason": failed.value.detail}
    assert library.calls() == []


@everyFamily
def test_file_that_the_library_refuses(key, runtime, library, tmp_path):
    (tmp_path / "wrong").write_text("not a model")
    param = structs.replace(runtime(key).createDefaultParam(), model_path=str(tmp_path / "wrong"))
    runtime(key).checkParam(param)  # what is in it, only the library knows
    with pytest.raises(ModelLoadFailed, match="rkllm_init returned -1, the log of the library says why; known reasons"):
        runtime(key).init(param)
    assert library.calls() == ["rkllm_init"]


@everyFamily
@pytest.mark.parametrize(
    ("script", "said"), [("init=null", "gave no model and no error"), ("init=fail", "rkllm_init returned -1")]
)
def test_init_that_goes_wrong(key, script, said, runtime, library):
    """0 without a handle was seen on 1.2.3 when NPU memory ran out."""
    library.script(script)
    param = structs.replace(runtime(key).createDefaultParam(), model_path=library.model)
    with pytest.raises(ModelLoadFailed, match=said):
        runtime(key).init(param)
    library.script("")
    model = runtime(key).init(param)
    assert Run(model).text == "one two three"
    model.destroy()


def test_context_above_the_limit_of_the_file(load):
    with pytest.raises(ModelLoadFailed, match="its context limit is below max_context_len, 4096"):
        load("1.3", "context=2048")


@everyFamily
def test_second_model_in_a_process(key, load, library):
    """Before 1.2.2 it gives garbage (issue 367)."""
    first = load(key)
    if FAMILIES[key].holdsSeveral:
        assert Run(load(key)).text == "one two three"
    else:
        with pytest.raises(ModelLoadFailed, match="one model in a process, and one is loaded"):
            load(key)
        assert library.calls().count("rkllm_init") == 1
        first.destroy()
        assert Run(load(key)).text == "one two three"


def test_two_families_in_one_process(load):
    models = [load(key) for key in FAMILIES]
    assert [Run(model, f"model {index}").text for index, model in enumerate(models)] == [f"model {i}" for i in range(6)]

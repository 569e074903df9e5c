"""What the stand-in complains of: each thing that a caller can get wrong."""

import pytest

from tests.native.driving import RECENT, run


def violationsOf(standin, *orders, **settings):
    """What it complains about; with violations=abort it dies of the same."""
    reported = standin.drive(*orders, **settings)
    script = ";".join(filter(None, [settings.pop("script", ""), "violations=abort"]))
    assert standin.drive(*orders, script=script, **settings).status != 0
    assert "STAND-IN VIOLATION in " in reported.errors
    return reported.violations


@pytest.mark.parametrize(("field", "value", "what"), [
    ("model_path", "NULL", "model_path is NULL"),
    ("max_context_len", 0, "max_context_len is 0"),
    ("top_k", 0x42200000, "top_k is 1109393408: the bits of a float?"),
    ("top_p", "nan", "top_p is nan"),
    ("temperature", "inf", "temperature is inf"),
    ("repeat_penalty", 0, "repeat_penalty is 0"),
    ("mirostat", 3, "mirostat is 3"),
    ("skip_special_token", 2, "skip_special_token is neither 0 nor 1"),
    ("is_async", 7, "is_async is neither 0 nor 1"),
    ("base_domain_id", -1, "base_domain_id is -1"),
    ("reserved[7]", 1, "reserved bytes of extend_param are not zero"),
])  # fmt: skip
def test_parameters_of_init(each, field, value, what):
    assert violationsOf(each, "bare", "set", field, value, "init") == [what]


@pytest.mark.parametrize(("field", "value", "what"), [
    ("n_keep", 4096, "n_keep is 4096, max_context_len 4096"),
    ("embed_flash", 2, "embed_flash is 2"),
    ("enabled_cpus_num", 3, "enabled_cpus_mask names 4 CPUs, enabled_cpus_num is 3"),
    ("enabled_cpus_mask", 0xF00, "enabled_cpus_mask is 0xf00, this board has 8 CPUs"),
    ("n_batch", 0, "n_batch must be between 1 and 100, it is 0"),
    ("n_batch", 101, "n_batch must be between 1 and 100, it is 101"),
    ("use_cross_attn", 3, "use_cross_attn is 3"),
])  # fmt: skip
def test_newer_parameters_of_init(recent, field, value, what):
    assert violationsOf(recent, "bare", "set", field, value, "init") == [what]


def test_board_with_fewer_cpus(recent):
    assert "this board has 6 CPUs" in violationsOf(recent, "bare", "init", script="cpus=6")[0]


@pytest.mark.parametrize(("orders", "what"), [
    (("set", "mode", 7), "mode is 7, this family has"),
    (("set", "input_type", 9), "input_type is 9"),
    (("set", "save_prompt_cache", 2), "save_prompt_cache is 2"),
    (("set", "lora_adapter_name", "NULL"), "lora_adapter_name is NULL"),
    (("tokens", "5,-1"), "input_ids[1] is -1"),
    (("embed", "nan,0,0,0,0,0,0,0"), "embed[0] is not a finite number"),
    (("embed", ""), "n_tokens is 0"),
    (("media", "<image>", "inf,0,0,0,0,0,0,0"), "image_embed[0] is not a finite number"),
    (("prompt", b"\xff"), "prompt_input is not UTF-8"),
])  # fmt: skip
def test_input_of_a_run(each, orders, what):
    orders = [order.decode("utf-8", "surrogateescape") if isinstance(order, bytes) else order for order in orders]
    (violation,) = violationsOf(each, "prompt", "x", *orders, "run")
    assert violation.startswith(what)


@pytest.mark.parametrize(("field", "value", "what"), [
    ("role", "NULL", "role is NULL"),
    ("enable_thinking", 3, "enable_thinking is neither 0 nor 1"),
    ("keep_history", 5, "keep_history is 5"),
])  # fmt: skip
def test_newer_input_of_a_run(recent, field, value, what):
    assert violationsOf(recent, "prompt", "x", "set", field, value, "run") == [what]


def test_sampling_of_a_run(newest):
    assert violationsOf(newest, "prompt", "x", "set", "run.temperature", "nan", "run") == ["temperature is nan"]


@pytest.mark.parametrize("how", ["inside", "beside"])
@pytest.mark.parametrize("function", ["run", "destroy", "release"])
def test_calls_during_a_run(each, how, function):
    what = violationsOf(each, "at", 1, how, function, "prompt", "x", "run")
    inside = "called from inside a callback"
    beside = "a run of this handle is in progress" if function == "run" else "called during a run of the same handle"
    assert what == [inside if how == "inside" else beside]


def test_destroyed_handles(each):
    assert violationsOf(each, "destroy", "destroy") == ["handle 1 is destroyed"]
    assert violationsOf(each, "destroy", "abort") == ["handle 1 is destroyed"]
    assert violationsOf(each, "prompt", "x", "destroy", "run") == ["handle 1 is destroyed"]


@pytest.mark.parametrize("function", ["run", "abort", "running", "destroy"])
def test_null_handle(each, function):
    assert violationsOf(each, "prompt", "x", "null", function) == ["the handle is NULL"]


def test_second_model_in_a_process_of_the_older_releases(each):
    outcome = each.drive("init")
    assert bool(outcome.violations) == (each.family not in RECENT)


def test_callback_that_writes_into_the_results(each):
    assert violationsOf(each, "at", 1, "scribble", 0, "prompt", "x", "run") == ["wrote into the results"]


def test_input_that_changes_during_the_run(each):
    (violation,) = violationsOf(each, "at", 1, "change", 0, "prompt", "x", "run")
    assert violation.startswith("what the run was given has changed")


@pytest.mark.parametrize("value", [3, -1])
def test_callback_that_returns_rubbish(recent, value):
    assert violationsOf(recent, "at", 1, "return", value, "prompt", "x", "run") == [f"returned {value} in the state 0"]


def test_callback_that_releases_what_it_did_not_get(recent):
    assert violationsOf(recent, "at", 1, "return", 2, "prompt", "x", "run") == ["returned 2 in the state 0"]


def test_callback_that_writes_beside_the_results(each):
    assert violationsOf(each, "at", 1, "beyond", 0, "prompt", "x", "run") == ["wrote beside the results"]


def test_text_that_was_kept_is_rubbish(each):
    assert "kept a5" in each.drive("at", 1, "keep", 0, "at", 2, "peek", 0, *run("prompt", "x")).lines


def test_what_must_live_until_destroy(each):
    kept = "the RKLLMCallback" if each.family.startswith("1.3") else "an img_ string"
    (violation,) = violationsOf(each, "prompt", "x", "spoil", "run")
    assert violation == f"{kept} of init is not what it was: it must live until destroy"
    assert violationsOf(each, "spoil", "destroy") == [violation]


def test_arrays_of_cross_attention_must_live(recent):
    orders = ("bare", "set", "use_cross_attn", 1, "init", "cross", 3, "at", 1, "inside", "spoil", "prompt", "x", "run")
    assert "the arrays of rkllm_set_cross_attn_params have changed, or were freed" in violationsOf(recent, *orders)


def test_callbacks_that_write_more_than_there_is_room_for(newest):
    settings = {"model": "tokenizer=0;embedding=0"}
    first, second, *_ = newest.drive("lie", *run("prompt", "x"), **settings).violations
    assert first == "wrote more than the 4096 ids that there is room for"
    assert second.startswith("wrote beyond the ")
    violationsOf(newest, "lie", *run("prompt", "x"), **settings)


def test_texts_of_other_functions(recent):
    assert violationsOf(recent, "template", "NULL", "", "") == ["system_prompt is NULL"]
    assert violationsOf(recent, "template", "", "\udcff", "") == ["prompt_prefix is not UTF-8"]
    assert violationsOf(recent, "tools", "", "NULL", "") == ["tools is NULL"]


def test_adapters_and_prompt_caches(each):
    assert violationsOf(each, "load", "NULL") == ["the path is NULL"]
    assert violationsOf(each, "lora", "NULL", "name", 1) == ["the adapter, its path or its name is NULL"]
    assert violationsOf(each, "lora", "path", "name", "nan") == ["scale[0] is not a finite number"]


def test_flags_and_ranges_of_clear(recent):
    assert violationsOf(recent, "clear", 2) == ["keep_system_prompt is 2"]


def test_init_without_a_callback(each):
    assert "the callback is NULL" in violationsOf(each, "bare", "init-without")[0]


def test_arrays_of_cross_attention(recent):
    orders = ("bare", "set", "use_cross_attn", 1, "init", "cross", 0)
    assert "num_tokens is not positive" in violationsOf(recent, *orders)[0]

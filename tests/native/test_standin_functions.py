"""The KV cache and the other functions of the library."""

import signal

from tests.native.driving import RECENT, idOf, run

# The KV cache


def test_sizes_of_the_cache(recent):
    orders = (
        "bare",
        "set",
        "max_new_tokens",
        1,
        "init",
        "set",
        "keep_history",
        1,
        "tokens",
        "5,6,7",
        "run",
        "kv",
        "clear",
        0,
        "kv",
    )
    lines = recent.drive(*orders).lines
    assert [line for line in lines if line.startswith("size")] == ["size 3", "size 0"]


def test_common_prefix_is_not_read_again(each):
    outcome = each.drive("tokens", "5,6,7,8", "run", "tokens", "5,6,9", "run")
    reused = [entry["reused"] for entry in outcome.log if entry["event"] == "prefill"]
    assert reused == ([0, 0] if each.family == "1.1" else [0, 2])


def test_figures_count_what_was_read_or_all(newest):
    orders = ("tokens", "5,6,7,8", "run", "run")
    assert "prefill=1" in newest.drive(*orders).lines[-2]
    assert "prefill=4" in newest.drive(*orders, script="prefill_counts=all").lines[-2]


def test_embeddings_are_matched_from_1_2_1_on(each):
    outcome = each.drive("embed", ",".join(["0.5"] * 16), "run", "run")
    reused = [entry["reused"] for entry in outcome.log if entry["event"] == "prefill"]
    assert reused[1] == (1 if each.family in RECENT else 0)


def test_history(recent):
    orders = (
        "set",
        "keep_history",
        1,
        "template",
        "sys",
        "",
        "",
        "prompt",
        "a b",
        "run",
        "prompt",
        "c {prompt}",
        "run",
        "kv",
    )
    outcome = recent.drive(*orders)
    assert outcome.texts[-2] == '" c {prompt}"'  # without the system prompt
    assert outcome.lines[-2] == f"size {3 + 2 + 2 + 2}"  # sys a b, a b said, c {prompt}, the two said


def test_clear_keeps_the_system_prompt(recent):
    orders = ("set", "keep_history", 1, "template", "be brief ", "", "", "prompt", "a", "run", "clear", 1, "kv")
    assert "size 2" in recent.drive(*orders).lines


def test_clear_of_two_arguments(built):
    for family in ("1.2.0", "1.2.1b1"):
        outcome = built(family).drive("tokens", "5,6,7", "run", "clear", 0, "run")
        assert [entry["reused"] for entry in outcome.log if entry["event"] == "prefill"] == [0, 0]


def test_ranges_are_taken_only_after_a_pause(recent):
    assert "range -1" in recent.drive("tokens", "5,6,7", "run", "range", 1, 2).lines
    paused = recent.drive("at", 1, "return", 1, "tokens", "5,6,7", "run", "range", 1, 2, "kv")
    assert paused.lines[-3:] == ["range 0", "size 2", "kv 0"]
    assert "range 0" in recent.drive("tokens", "5,6,7", "run", "range", 1, 2, script="ranges=free").lines


def test_context_shifts(recent):
    orders = (
        "bare",
        "set",
        "max_context_len",
        8,
        "set",
        "n_keep",
        2,
        "set",
        "max_new_tokens",
        30,
        "init",
        "tokens",
        "5,6",
    )
    outcome = recent.drive(*orders, "run", "kv", script="endless=1")
    assert len(outcome.texts) == 30
    assert [entry["left"] for entry in outcome.log if entry["event"] == "shift"][:2] == [5, 5]
    assert int(outcome.lines[-2].split()[1]) <= 8


def test_prompt_that_is_too_long(each):
    outcome = each.drive("bare", "set", "max_context_len", 8, "init", "tokens", "5,6,7,8,9,5,6,7,8", "run")
    assert outcome.lines == ["init 0", "run -1"]
    assert "prompt is too long: 9 tokens, max_context_len is 8" in outcome.errors
    assert outcome.violations == []


def test_prompt_that_is_too_long_crashes_as_it_did_in_1_1(built):
    orders = ("bare", "set", "max_context_len", 2, "init", "tokens", "5,6,7", "run")
    assert built("1.1").drive(*orders, script="crash=segv@overlong").status == -signal.SIGSEGV


def test_prompt_cache_files(each, tmp_path):
    path = tmp_path / "cache"
    save = ("set", "save_prompt_cache", 1, "set", "prompt_cache_path", path, "tokens", "5,6,7", "run")
    assert each.drive(*save).status == 0
    assert path.read_text().startswith("RKLLM-STANDIN-CACHE 3\n5\n")
    outcome = each.drive("load", path, "load", path, "tokens", "5,6,8", "run", "release", "load", path, "destroy")
    assert [line for line in outcome.lines if line.startswith(("load", "release"))] == [
        "load 0",
        "load -1",
        "release 0",
        "load 0",
    ]
    assert [entry["reused"] for entry in outcome.log if entry["event"] == "prefill"] == [2]


def test_prompt_cache_that_is_missing_or_empty(each, tmp_path):
    (tmp_path / "empty").write_text("")
    assert each.drive("load", tmp_path / "none", "load", tmp_path / "empty").lines[1:] == ["load -1", "load -1"]


def test_prompt_cache_without_a_path_lies_in_the_working_directory(newest):
    newest.drive("set", "save_prompt_cache", 1, *run("prompt", "x"))
    (newest.directory / "prompt_cache.bin").unlink()


def test_more_tokens_than_were_given(newest):
    outcome = newest.drive("set", "mode", 2, *run("tokens", "5"), script="bos=1", model="vocab=20")
    assert "logits 2x20:" in outcome.lines[1]


# Other functions


def test_lora(each, tmp_path):
    (tmp_path / "adapter").write_text("any")
    load = ("lora", tmp_path / "adapter", "mine", 0.5)
    outcome = each.drive(
        *load,
        *load,
        "lora",
        tmp_path / "none",
        "other",
        1,
        "set",
        "lora_adapter_name",
        "mine",
        "prompt",
        "{lora}",
        "run",
    )
    assert [line for line in outcome.lines if line.startswith("lora")] == ["lora 0", "lora -1", "lora -1"]
    assert outcome.answer == "[mine] mine scale=0.5"  # the adapter is heard
    assert each.drive("set", "lora_adapter_name", "mine", "prompt", "x", "run").lines[-1] == "run -1"


def test_chat_template(each):
    outcome = each.drive("template", "S ", "P ", " Q", "prompt", "{prompt}", "run")
    if each.family == "1.1":
        assert outcome.answer == "{prompt}"
    else:
        assert outcome.answer == "S P {prompt} Q"
        assert each.drive("template", "", "", "", "prompt", "{prompt}", "run").answer == "{prompt}"


def test_built_in_template(recent):
    thinking = recent.drive("set", "enable_thinking", 1, "prompt", "{prompt}", "run")
    assert thinking.answer == "<|user|> {prompt} <|assistant|> <think>"
    assert recent.drive("prompt", "{prompt}", "run").answer == "<|user|> {prompt} <|assistant|> <think></think>"


def test_empty_role_bypasses_the_template_from_1_3_on(recent):
    answer = recent.drive("set", "role", "", "prompt", "{prompt}", "run").answer
    assert answer.startswith("{prompt}") == recent.family.startswith("1.3")


def test_tools(recent):
    tools = ("tools", "S ", "[] ", "R ")
    assert recent.drive(*tools, "prompt", "{prompt}", "run").answer.startswith("S [] <|user|> ")
    assert "R {}" in recent.drive(*tools, "set", "role", "tool", "prompt", "{} {prompt}", "run").answer
    assert "[]" not in recent.drive(*tools, "template", "", "", "", "prompt", "{prompt}", "run").answer
    refused = recent.drive(*tools, "set", "role", "tool", "prompt", "no JSON", "run")
    assert (refused.lines[-1], refused.violations) == ("run -1", [])


def test_cross_attention(recent):
    orders = ("bare", "set", "use_cross_attn", 1, "init", "prompt", "{cross}")
    outcome = recent.drive(*orders, "run", "cross", 3, "run")
    assert outcome.lines[1:3] == ["run -1", "cross 0"]
    assert outcome.answer == "num_tokens=3 k=0.25 v=0.5 mask=0.75 pos=4"
    assert recent.drive("cross", 3).lines[-1] == "cross -1"


def test_images(each):
    outcome = each.drive(*run("media", "see <image> now {media}", ",".join(["0.5"] * 16)))
    assert outcome.texts[:3] == ['"see"', '" <image>"', '" now"']
    assert "n_image_tokens=2" in outcome.answer
    assert (outcome.lines[-2], outcome.violations) == ("run 0", [])


def test_images_without_their_markers(each):
    for text in ("see nothing", "see <image> <image>"):
        outcome = each.drive(*run("media", text, ",".join(["0.5"] * 8)))
        assert (outcome.lines[-2], outcome.violations) == ("run -1", [])


def test_several_inputs_in_a_run(recent):
    orders = ("bare", "set", "n_batch", 2, "init", "batch", "a", "batch", "b c", "run", "kv")
    outcome = recent.drive(*orders, script="eos=none")
    said = [f'NORMAL {idOf("a")} "a" {idOf("b")} "b"', f'NORMAL -1 NULL {idOf(" c")} " c"']
    assert [line for line in outcome.lines if line.startswith("NORMAL")] == said
    assert len([line for line in outcome.lines if line.startswith("FINISH")]) == 1
    assert [line for line in outcome.lines if line.startswith("size")] == ["size 5", "size 6"]


def test_several_inputs_and_no_logits(recent):
    orders = ("bare", "set", "n_batch", 2, "set", "mode", 2, "init", "batch", "a", "batch", "b", "run")
    assert recent.drive(*orders).lines[-1] == "run -1"


def test_model_without_tokenizer_or_embeddings_asks(built):
    for family in ("1.3", "1.3.1"):
        outcome = built(family).drive("set", "role", "", *run("prompt", "ab"), model="tokenizer=0;embedding=0")
        assert outcome.lines[1:3] == ["tokenize 2", "embed 2 tokens 64 bytes"]
        assert outcome.texts == ["NULL", "NULL"]
    assert built("1.2.1").drive(*run("prompt", "ab"), model="tokenizer=0").lines[-2] == "run -1"


def test_userdata_of_the_callback_struct(newest):
    assert "userdata=77" in newest.drive("bare", "set", "result_userdata", 77, "init", *run("prompt", "x")).lines[1]


def test_run_async_has_its_own_thread(each):
    outcome = each.drive("prompt", "one two", "async", "async", "destroy")
    assert outcome.texts == ['"one"', '" two"', "NULL"] * 2
    assert [line for line in outcome.lines if line.endswith(" 0")] == ["init 0", "async 0", "async 0", "destroy 0"]
    assert all(line.endswith(" (another thread)") for line in outcome.lines if line.startswith(("NORMAL", "FINISH")))
    assert "thread" not in " ".join(each.drive(*run("prompt", "x")).lines)
    assert (outcome.status, outcome.violations) == (0, [])

"""What the stand-in answers: echoes, scripts, tensors with known values."""

import time

import pytest

from tests.native.build import FAMILIES
from tests.native.driving import idOf, run


def test_echoes_the_prompt_and_finishes_once(each):
    outcome = each.drive(*run("prompt", "one two three"))
    assert outcome.lines[0] == "init 0"
    assert outcome.texts == ['"one"', '" two"', '" three"', "NULL"]
    assert outcome.lines[-3].startswith("FINISH")
    assert outcome.lines[-2:] == ["run 0", "destroy 0"]
    assert (outcome.status, outcome.violations) == (0, [])


def test_figures_come_with_finish(recent):
    outcome = recent.drive(*run("prompt", "one two three"))
    assert "FINISH prefill=6 generate=3 ms=12,30 mb=64.5" in outcome.lines  # three more are of the template


def test_figures_of_the_script(newest):
    outcome = newest.drive(*run("prompt", "one"), script="perf=1.5,2,3.5,4,5.5")
    assert "FINISH prefill=2 generate=4 ms=1.5,3.5 mb=5.5" in outcome.lines


def test_tokens_of_the_script(each):
    outcome = each.drive(*run("prompt", "hello"), script=r"tokens=a| b\x21|{null}|{empty}|\|\;\{\n;ids=5,6;eos=none")
    assert [line for line in outcome.lines if "NORMAL" in line][:2] == ['NORMAL 5 "a"', 'NORMAL 6 " b!"']
    assert outcome.texts[2:] == ["NULL", '""', r'"|;{\x0a"']


def test_control_file_wins_and_is_read_at_each_call(each):
    outcome = each.drive(*run("prompt", "hello"), script="tokens=environment;eos=none", control="# now\ntokens=file\n")
    assert outcome.answer == "file"


def test_control_file_can_be_written_while_it_runs(newest, gate):
    process = newest.start("prompt", "hello", "run", "run", script=f"gate={gate}@prefill;eos=none", control="")
    with gate.open("w"):
        (newest.directory / "control").write_text("tokens=second;gate=")
    outcome = newest.outcome(process)
    assert outcome.texts == ['"hello"', '"second"']


def test_unknown_key_is_a_violation(newest):
    assert "unknown key tokn" in newest.drive("bare", "init", script="tokn=x").violations[0]


@pytest.mark.parametrize(("how", "callbacks"), [
    ("whole", [("NORMAL", '"a"'), ("WAITING", "NULL"), ("WAITING", "NULL"), ("NORMAL", r'"\xe2\x82\xac!"')]),
    ("raw", [("NORMAL", '"a"'), ("NORMAL", r'"\xe2"'), ("NORMAL", r'"\x82"'), ("NORMAL", r'"\xac!"')]),
    ("waiting", [("NORMAL", '"a"'), ("WAITING", r'"\xe2"'), ("NORMAL", r'"\x82"'), ("NORMAL", r'"\xac!"')]),
])  # fmt: skip
def test_character_that_is_split_over_tokens(newest, how, callbacks):
    outcome = newest.drive(*run("prompt", "x"), script=rf"tokens=a|\xe2|\x82|\xac!;eos=none;utf8={how}")
    spoken = [line.split(" ", 2) for line in outcome.lines if line.startswith(("NORMAL", "WAITING"))]
    assert [(state, text) for state, _, text in spoken] == callbacks


def test_split_characters_are_raw_in_1_1_and_whole_later(each):
    outcome = each.drive(*run("prompt", "x"), script=r"tokens=\xc3|\xa9;eos=none")
    assert outcome.texts == ([r'"\xc3"', r'"\xa9"'] if each.family == "1.1" else ["NULL", r'"\xc3\xa9"'])


def test_end_token(each):
    silent = each.drive(*run("prompt", "x"))
    assert silent.lines[-4] == "NORMAL 2 NULL"
    spoken = each.drive("bare", "set", "skip_special_token", 0, "init", *run("prompt", "x"))
    assert spoken.lines[-4] == ('NORMAL 2 "</s>"' if each.family.startswith("1.3") else "NORMAL 2 NULL")


def test_token_limits(each):
    outcome = each.drive("bare", "set", "max_new_tokens", 2, "init", *run("prompt", "one two three"))
    assert outcome.texts == ['"one"', '" two"']
    if each.family.startswith("1.3"):
        outcome = each.drive("set", "run.max_new_tokens", 1, *run("prompt", "one two three"))
        assert outcome.texts == ['"one"']


def test_endless_until_the_limit(each):
    outcome = each.drive("bare", "set", "max_new_tokens", 50, "init", *run("prompt", "on and"), script="endless=1")
    assert len(outcome.texts) == 50


def test_end_token_is_ignored(newest):
    orders = ("bare", "set", "ignore_eos_token", 1, "set", "max_new_tokens", 6, "init", "prompt", "a b", "run")
    assert newest.drive(*orders).texts == ['"a"', '" b"', "NULL"] * 2


def test_tokens_and_embeddings_as_input(each):
    outcome = each.drive("tokens", "5,6", "run", "embed", ",".join(["0.5"] * 8 + ["0.25"] * 8), *run())
    assert outcome.texts == ['" 5"', '" 6"', "NULL", '" 0.5"', '" 0.25"', "NULL"]
    assert "NORMAL 5" in outcome.lines[1]


def test_names_show_what_arrived(recent):
    orders = ("set", "role", "tool", "set", "enable_thinking", 1, "prompt", "[1] {input} {run} {prompt}", "run")
    outcome = recent.drive(*orders)
    assert " type=0 role=tool thinking=1" in outcome.answer
    assert " mode=0 keep_history=0" in outcome.answer
    assert "<|tool|> [1]" in outcome.answer


def test_sampling_that_arrived(each):
    ordered = each.drive("bare", "set", "temperature", 0.25, "init", *run("prompt", "{sampling}"))
    assert "temperature=0.25 repeat_penalty=1.1 frequency_penalty=0" in ordered.answer
    if each.family.startswith("1.3"):
        ordered = each.drive("set", "run.temperature", 0.5, "set", "run.top_k", 7, *run("prompt", "{sampling}"))
        assert "top_k=7 top_p=0.9 temperature=0.5" in ordered.answer


def test_log_tells_what_arrived(recent):
    outcome = recent.drive(*run("prompt", "hello"))
    loaded = next(entry for entry in outcome.log if entry["event"] == "init")
    assert loaded["model_path"].endswith("model.rkllm")
    assert "n_batch=1" in loaded["param"]
    ran = next(entry for entry in outcome.log if entry["event"] == "run")
    assert ran["input"] == "type=0 role=user thinking=0"
    assert "hello" in ran["prompt"]
    calls = [entry["function"] for entry in outcome.log if entry["event"] == "call"]
    assert calls[-3:] == ["rkllm_init", "rkllm_run", "rkllm_destroy"]


def test_parameters_that_arrived_at_init(recent):
    orders = ("bare", "set", "enabled_cpus_num", 3, "set", "enabled_cpus_mask", 7, "init", *run("prompt", "{param}"))
    assert "enabled_cpus_num=3 enabled_cpus_mask=7 n_batch=1" in recent.drive(*orders).answer


def test_ids_depend_on_the_word(each):
    assert f'NORMAL {idOf("one")} "one"' in each.drive(*run("prompt", "one two")).lines


# Tensors


def logit(token, position, column):
    return (token * 13 + position * 7 + column * 3) % 512 / 16


def hidden(token, position, column):
    return -((token * 11 + position * 5 + column * 2) % 512) / 16


def test_logits(built):
    for family in FAMILIES[1:]:
        outcome = built(family).drive("set", "mode", 2, *run("tokens", "5,6"), model="vocab=20")
        first, second = [line for line in outcome.lines if line.startswith("NORMAL")][:2]
        assert first == f'NORMAL 5 " 5" logits 2x20: {logit(5, 0, 0):g} {logit(5, 0, 1):g} {logit(6, 1, 19):g}'
        assert second == f'NORMAL 6 " 6" logits 1x20: {logit(5, 2, 0):g} {logit(5, 2, 1):g} {logit(5, 2, 19):g}'


def test_hidden_states(each):
    outcome = each.drive("set", "mode", 1, *run("tokens", "5,6"), model="embd=4")
    rows = f"hidden 2x4: {hidden(5, 0, 0):g} {hidden(5, 0, 1):g} {hidden(6, 1, 3):g}"
    said = [line for line in outcome.lines if line.startswith(("NORMAL", "HIDDEN"))]
    if each.family == "1.1":
        assert said == [f"HIDDEN 0 NULL {rows}", 'NORMAL 5 " 5"']
    else:
        assert said == ["NORMAL 0 NULL", f'NORMAL 5 " 5" {rows}']


def test_hidden_states_in_the_first_callback(newest):
    outcome = newest.drive("set", "mode", 1, *run("tokens", "5"), script="hidden=first")
    assert [line.split()[:2] for line in outcome.lines if "NORMAL" in line] == [["NORMAL", "5"]]


def test_rows_of_what_was_in_the_cache_are_left_out(newest):
    orders = ("set", "mode", 2, "tokens", "5,6,7", "run", "run")
    assert [line.split()[5] for line in newest.drive(*orders).lines if "NORMAL 5" in line] == ["3x1000:", "1x1000:"]
    whole = newest.drive(*orders, script="rows=all")
    assert [line.split()[5] for line in whole.lines if "NORMAL 5" in line] == ["3x1000:", "3x1000:"]


def test_tensor_is_held_unless_the_callback_returns_2(newest):
    orders = ("set", "mode", 2, "tokens", "5,6", "at", 1, "return", 2, "at", 2, "return", 2, "at", 3, "return", 2)
    kept = newest.drive(*orders, "calm", "run", "set", "mode", 0, "prompt", "{held}", "run", model="vocab=20")
    released = newest.drive(*orders, "run", "calm", "set", "mode", 0, "prompt", "{held}", "run", model="vocab=20")
    assert (kept.texts[-2], released.texts[-2]) == ('"160"', '"0"')


def test_stamps_are_the_times_of_the_callbacks(newest):
    before = time.monotonic_ns()
    outcome = newest.drive(*run("prompt", "x"), script="tokens=a|b;stamps=1;token_us=1500;eos=none")
    first, second = (int(text.strip('"')) for text in outcome.texts)
    assert before < first < second < time.monotonic_ns()
    assert second - first >= 1_500_000

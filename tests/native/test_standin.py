"""The stand-in itself, driven by a C program that includes its header: each key, each fault, each check."""

import functools
import json
import os
import signal
import subprocess
import time
from typing import NamedTuple

import pytest

from tests.native.build import FAMILIES, buildDriver, buildStandin

RECENT = ("1.2.1", "1.3", "1.3.1")
WRAPPER = os.environ.get("STANDIN_WRAPPER", "").split()
"""A program that runs the driver, such as valgrind, and exits with 99 if it found something."""

FUNCTIONS = (
    "createDefaultParam init destroy run run_async abort is_running load_lora load_prompt_cache release_prompt_cache"
)
SINCE_1_2_0 = " clear_kv_cache set_chat_template"
SINCE_1_2_1 = " get_kv_cache_size set_function_tools set_cross_attn_params"


class Outcome(NamedTuple):
    """What the driver did."""

    lines: list[str]
    status: int
    errors: str
    log: list[dict]

    @property
    def violations(self):
        return [entry["what"] for entry in self.log if entry["event"] == "violation"]

    @property
    def texts(self):
        """The texts of the callbacks with a token."""
        tokens = [line for line in self.lines if line.startswith(("NORMAL", "WAITING"))]
        return [line.split(" ", 2)[2].removesuffix(" (another thread)") for line in tokens]

    @property
    def answer(self):
        return "".join(text[1:-1] for text in self.texts if text != "NULL")


class Standin:
    """The library of one family and its driver."""

    def __init__(self, family, directory):
        self.family = family
        self.directory = directory
        self.library = buildStandin(family, directory)
        self.driver = buildDriver(family, self.library)

    def start(self, *orders, script="", model="", control=None, path="model.rkllm"):
        """The driver as a process; the model is loaded first unless the orders begin with ``bare``."""
        log = self.directory / "log"
        log.write_text("")
        (self.directory / "model.rkllm").write_text(f"RKLLM-STANDIN {model}\n")
        orders = orders[1:] if orders[:1] == ("bare",) else ("init", *orders)
        environment = {**os.environ, "RKLLM_STANDIN": script, "RKLLM_STANDIN_LOG": str(log)}
        if control is not None:
            (self.directory / "control").write_text(control)
            environment["RKLLM_STANDIN_CONTROL"] = str(self.directory / "control")
        return subprocess.Popen(
            [*WRAPPER, str(self.driver), "set", "model_path", str(self.directory / path), *map(str, orders)],
            env=environment,
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="backslashreplace",
        )

    def drive(self, *orders, **settings):
        """Let the driver run to its end."""
        return self.outcome(self.start(*orders, **settings))

    def outcome(self, process):
        output, errors = process.communicate(timeout=120)
        assert process.returncode != 99, errors
        return Outcome(output.splitlines(), process.returncode, errors, self.log())

    def log(self):
        return [json.loads(line) for line in (self.directory / "log").read_text().splitlines()]


@pytest.fixture(autouse=True)
def _guard():
    """Instead of the one that looks after Twisted, which has no part in these tests and takes longer than they do."""


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    return functools.cache(lambda family: Standin(family, tmp_path_factory.mktemp(f"standin-{family}")))


@pytest.fixture(params=FAMILIES)
def each(request, built):
    """The stand-in of each family."""
    return built(request.param)


@pytest.fixture(params=RECENT)
def recent(request, built):
    """The families that have all functions."""
    return built(request.param)


@pytest.fixture
def newest(built):
    return built("1.3.1")


@pytest.fixture
def gate(tmp_path):
    """A FIFO at which a run waits until the test opens it for writing, and closes it."""
    os.mkfifo(tmp_path / "gate")
    return tmp_path / "gate"


def run(*orders):
    """Orders that run a prompt and let go of the model."""
    return (*orders, "run", "destroy")


# The library


def test_exports_the_functions_of_its_family_and_nothing_else(each):
    output = subprocess.run(["nm", "-D", "--defined-only", each.library], capture_output=True, text=True, check=True)
    exported = {
        line.split()[-1] for line in output.stdout.splitlines() if " T " in line or " D " in line or " B " in line
    }
    expected = FUNCTIONS + (SINCE_1_2_0 if each.family != "1.1" else "")
    expected += SINCE_1_2_1 if each.family in RECENT else ""
    assert exported == {f"rkllm_{name}" for name in expected.split()}


def test_names_its_release_in_the_file_and_in_the_log_line(each):
    release = {"1.1": "1.1.4", "1.2.1": "1.2.3", "1.3": "1.3.0"}.get(each.family, each.family)
    assert f"RKLLM SDK (version: {release} | target: Linux | build: ".encode() in each.library.read_bytes()
    assert f"I rkllm: rkllm-runtime version: {release}, " in each.drive().errors


def test_another_release_of_the_family_can_be_asked_for(tmp_path):
    library = buildStandin("1.2.1", tmp_path, '-DSTANDIN_VERSION="1.2.2"')
    assert b"(version: 1.2.2 |" in library.read_bytes()


def test_unknown_family(tmp_path):
    with pytest.raises(ValueError, match=r"1\.0: unknown family"):
        buildStandin("1.0", tmp_path)


def test_wrong_source_is_an_error_that_says_what_the_compiler_said(tmp_path):
    with pytest.raises(RuntimeError, match="nonsense"):
        buildStandin("1.3", tmp_path, "-fnonsense")


# Answers


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


def idOf(word):
    """The token id of a word, white space before it included, in a vocabulary of 1000."""
    number = 14695981039346656037
    for byte in word.encode():
        number = (number ^ byte) * 1099511628211 % 2**64
    return number % (1000 - 16) + 16


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
    assert outcome.answer == "mine scale=0.5"
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


# Abort and is_running


def test_abort(each):
    for how in ("inside", "beside"):
        outcome = each.drive("at", 2, how, "abort", "prompt", "one two three", "run", "calm", "run")
        first = outcome.lines[: outcome.lines.index("run 0")]
        assert first[-2] == "abort 0"
        assert first[-1].startswith("FINISH")
        assert outcome.texts[-4:] == ['"one"', '" two"', '" three"', "NULL"]
        assert outcome.violations == []


def test_abort_cuts_the_time_between_tokens_short(each):
    outcome = each.drive("at", 1, "inside", "abort", "prompt", "one two", "run", script="token_ms=1")
    assert outcome.texts == ['"one"']


def test_abort_with_nothing_running(each):
    assert each.drive("abort", *run("prompt", "x")).texts == ['"x"', "NULL"]
    assert each.drive("abort", *run("prompt", "x"), script="stale_abort=hits").texts == []


@pytest.mark.parametrize(
    ("how", "last"),
    [("silent", ["run 0"]), ("fail", ["run -1"]), ("error", ["ERROR 0 NULL", "run -1"])],
)
def test_other_ends_of_an_abort(newest, how, last):
    outcome = newest.drive("at", 1, "inside", "abort", "prompt", "one two", "run", script=f"abort_ends={how}")
    assert outcome.lines[outcome.lines.index("abort 0") + 1 :] == last


def test_callbacks_after_an_abort(each):
    outcome = each.drive("at", 1, "inside", "abort", "prompt", "one two", "run", script="after_abort=2")
    assert outcome.texts == ['"one"', '" late"', '" late"']


def test_running(each):
    outcome = each.drive("running", "at", 1, "inside", "running", "prompt", "x", "run", "running")
    assert [line for line in outcome.lines if line.startswith("running")] == ["running 0", "running 1", "running 0"]


def test_prefill_that_hears_an_abort(newest):
    outcome = newest.drive("prompt", "x", "meanwhile", "abort", "run", script="prefill_ms=3600000;prefill_deaf=0")
    assert outcome.texts == []
    assert outcome.lines[-1] == "run 0"


def test_prefill_is_deaf_to_an_abort(newest):
    began = time.monotonic()
    outcome = newest.drive("prompt", "x", "meanwhile", "abort", "run", script="prefill_ms=300")
    assert time.monotonic() - began >= 0.3
    assert outcome.texts == []


# Faults


@pytest.mark.parametrize("place", ["init", "prefill", "2", "finish", "destroy"])
def test_hangs(newest, place):
    process = newest.start(*run("prompt", "one two three"), script=f"hang={place}")
    waitForEvent(newest, process, {"event": "hang", "place": place})
    assert process.poll() is None
    process.kill()
    output, _ = process.communicate()
    assert output.count("NORMAL") == {"init": 0, "prefill": 0, "2": 1, "finish": 4, "destroy": 4}[place]


def test_hang_in_abort(newest):
    process = newest.start("at", 1, "inside", "abort", "prompt", "x", "run", script="hang=abort")
    waitForEvent(newest, process, {"event": "hang", "place": "abort"})
    process.kill()
    process.communicate()


def waitForEvent(standin, process, event):
    """The log has no way to wake a reader: look until it is there, while the process lives."""
    while event not in standin.log():
        assert process.poll() is None


@pytest.mark.parametrize(
    ("kind", "status"),
    [("segv", signal.SIGSEGV), ("ill", signal.SIGILL), ("abort", signal.SIGABRT), ("bus", signal.SIGBUS)],
)
@pytest.mark.parametrize(("place", "tokens"), [("init", 0), ("prefill", 0), ("2", 1)])
def test_crashes(newest, kind, status, place, tokens):
    outcome = newest.drive(*run("prompt", "one two three"), script=f"crash={kind}@{place}")
    assert outcome.status == -status
    assert len(outcome.texts) == tokens


def test_process_just_ends(newest):
    assert newest.drive(script="crash=exit@init").status == 1


def test_init_that_fails(each):
    assert each.drive(script="init=fail").lines == ["init -1"]


def test_init_that_returns_0_with_a_null_handle(each):
    outcome = each.drive("running", script="init=null")
    assert outcome.lines == ["init 0", "running 0"]
    assert outcome.violations == ["the handle is NULL"]


def test_init_that_returns_0_though_it_failed_and_the_run_that_dies(each):
    outcome = each.drive("prompt", "x", "run", script="init=zombie", path="missing")
    assert outcome.lines == ["init 0"]
    assert "GGML_ASSERT" in outcome.errors
    assert outcome.status != 0


def test_wrong_model_files(each):
    (each.directory / "wrong").write_text("GGUF and so on")
    (each.directory / "odd").write_text("RKLLM-STANDIN wings=2\n")
    for path in ("missing", "wrong", "odd"):
        outcome = each.drive(path=path)
        assert (outcome.lines, outcome.violations) == (["init -1"], [])
    assert "2048" in each.drive(model="context=2048").errors


def test_run_that_fails_without_a_callback(each):
    assert each.drive(*run("prompt", "x"), script="run=-1").lines == ["init 0", "run -1", "destroy 0"]


def test_finish_that_is_missing_or_comes_twice(each):
    for how, count in (("missing", 0), ("twice", 2)):
        outcome = each.drive(*run("prompt", "x"), script=f"finish={how}")
        assert sum(line.startswith("FINISH") for line in outcome.lines) == count
        assert "run 0" in outcome.lines


def test_error_at_a_token(each):
    outcome = each.drive(*run("prompt", "one two"), script="error=2")
    assert outcome.lines[1:] == [outcome.lines[1], "ERROR 0 NULL", "run -1", "destroy 0"]


def test_status_of_a_run(each):
    assert "run 5" in each.drive(*run("prompt", "x"), script="returns=5").lines


def test_function_that_fails(recent):
    orders = ("clear", 0, "template", "", "", "", "kv", "destroy")
    outcome = recent.drive(*orders, script="fail=clear_kv_cache,set_chat_template,get_kv_cache_size")
    assert [line for line in outcome.lines if line.endswith("-1")] == ["clear -1", "template -1", "kv -1"]


def test_memory_that_grows(newest):
    for script, least, most in (("", 0, 900), ("grow=1000000", 3900, 10**6)):
        outcome = newest.drive("prompt", "x", "run", "memory", *["run"] * 4, "memory", script=script)
        first, last = (int(line.split()[2]) for line in outcome.lines if line.startswith("memory kB"))
        assert least <= last - first <= most


def test_chatter(newest):
    outcome = newest.drive(*run("prompt", "x"), script="chatter=stdout,stderr,binary")
    assert "standin chatters on stdout: a token" in outcome.lines
    assert "standin chatters on stderr: a run" in outcome.errors
    assert any("\\xff" in line for line in outcome.lines)


def test_log_line_on_another_stream(newest):
    assert (
        "rkllm-runtime version: 9.9, rknpu driver version: 0.9.8, platform: RK9"
        in newest.drive(script="log=stdout;version=9.9;platform=RK9").lines[0]
    )
    assert newest.drive(script="log=none").errors == ""


def test_run_async_that_returns_without_callbacks(each):
    process = each.start("prompt", "x", "async", script="async=dead")
    waitForEvent(each, process, {"event": "return", "function": "rkllm_run_async", "status": 0})
    process.kill()
    assert "NORMAL" not in process.communicate()[0]


def test_pause_swallows_the_next_prompt(recent):
    outcome = recent.drive("at", 1, "return", 1, "prompt", "one two", "run", "calm", "prompt", "other", "run")
    assert outcome.texts == ['"one"', '" two"', "NULL"]
    assert not any(line.startswith("FINISH") for line in outcome.lines[:3])


# Violations


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

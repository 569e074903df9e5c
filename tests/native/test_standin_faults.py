"""Aborts, and what the stand-in does wrong when its script says so."""

import signal
import time

import pytest

from tests.native.driving import run, waitForEvent

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

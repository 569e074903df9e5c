"""Runs that generate: texts, limits, and what the library may do wrong."""

import pytest
from msgspec import structs

from rkllm_twisted.backends.rkllm.families import FAMILIES
from rkllm_twisted.errors import InvalidParams, ModelNotInitialized, NotSupported, PromptTooLong, RuntimeCallFailed
from rkllm_twisted.values import RKLLMSamplingParam
from tests.backends.rkllm.running import FINISH, NORMAL, WAITING, Run, ids, prompt
from tests.standins import everyFamily, needsCompiler

pytestmark = needsCompiler

before_1_3 = pytest.mark.parametrize("key", [key for key, family in FAMILIES.items() if not family.takesSampling])
from_1_3 = pytest.mark.parametrize("key", [key for key, family in FAMILIES.items() if family.takesSampling])
TWO_BYTES = r"a\xc3|\xa9b"
"""The script of two tokens that share a character: é."""


# Texts


@everyFamily
def test_answer(key, load):
    run = Run(load(key), "one two three")
    assert run.text == "one two three"
    assert run.texts == ["one", " two", " three", None]  # the end token has no text
    assert [state for _, state in run.events] == [NORMAL] * 4 + [FINISH]
    assert all(result.token_id > 0 for result in run.results)
    assert run.reason == "stop"


@everyFamily
@pytest.mark.parametrize("style", ["whole", "raw", "waiting"])
def test_characters_are_whole(key, style, load, library):
    """Whether the bytes of an unfinished character come in WAITING, in NORMAL, or not before the rest (W-UTF8)."""
    library.script(f"tokens={TWO_BYTES};utf8={style}")
    run = Run(load(key))
    assert run.text == "aéb"
    assert len(run.results) == 3  # a result for each token, whatever it brought
    assert all(result.text is None for result, state in run.events if state is WAITING)


@everyFamily
@pytest.mark.parametrize("style", ["raw", "waiting"])
def test_character_that_never_ends_becomes_one_more_result(key, style, load, library):
    library.script(rf"tokens=a|\xf0\x9f\x98;utf8={style};eos=none")
    run = Run(load(key))
    assert run.text == "a\ufffd"
    assert run.events[-2][0].token_id == -1
    assert run.events[-2][1] is NORMAL
    assert [state for _, state in run.events[:2]] == [NORMAL, WAITING]


@everyFamily
def test_bytes_that_are_no_utf8(key, load, library):
    library.script(r"tokens=a\xff|b|{empty}|{null}|c;utf8=raw")
    assert Run(load(key)).text == "a\ufffdbc"


# Ends


@everyFamily
def test_limit_of_a_run(key, load, library):
    library.script("tokens=a|b|c;endless=1;token_ms=1")
    model = load(key, max_new_tokens=50)
    run = Run(model, max_new_tokens=4)
    assert run.texts == ["a", "b", "c", "a"]
    assert run.reason == "length"
    assert len(Run(model).results) == 50  # the next has the limit of init again


@everyFamily
def test_limit_of_a_run_above_that_of_init(key, load, library):
    """Only 1.3 can be told. What stops at the limit of init is cut off all the same, and has not ended."""
    run = Run(load(key, max_new_tokens=3), "one two three four five", max_new_tokens=4)
    assert run.reason == "length"
    assert len(run.results) == (4 if key.startswith("1.3") else 3)
    assert "rkllm_abort" not in library.calls()


@from_1_3
def test_library_that_can_be_told_the_limit_is_not_aborted(key, load, library):
    Run(load(key), "one two three four", max_new_tokens=2)
    assert "rkllm_abort" not in library.calls()
    assert library.events("run")[0]["run"] == "mode=0 keep_history=0 max_new_tokens=2"


@before_1_3
def test_library_that_knows_the_limit_from_init_is_not_aborted(key, load, library):
    assert Run(load(key, max_new_tokens=2), "one two three four").reason == "length"
    assert "rkllm_abort" not in library.calls()


@everyFamily
def test_end_token_at_the_limit_is_the_end(key, load):
    """The last result has no text, so the model has come to its end: it was not cut off."""
    run = Run(load(key, max_new_tokens=10), "one two", max_new_tokens=3)
    assert run.texts == ["one", " two", None]
    assert run.reason == "stop"


@everyFamily
def test_unlimited_generation_ends_with_the_context(key, load, library):
    """The library itself would go on for ever: its window shifts (measured on 1.3.1)."""
    library.script("endless=1")
    run = Run(load(key, max_context_len=64, max_new_tokens=-1), ids(20, 21, 22, 23))
    assert len(run.results) == 60
    assert run.reason == "length"


@from_1_3
def test_library_that_does_not_keep_the_limit(key, load, library, monkeypatch):
    """As 1.3.0 with files of older toolkits, whose end token it does not know."""
    library.script("endless=1;token_ms=1")
    model = load(key, max_new_tokens=-1)
    monkeypatch.setattr(model, "_inferParamOf", lambda inferParam, task: structs.replace(inferParam, max_new_tokens=0))
    run = Run(model, max_new_tokens=3)
    assert len(run.results) == 3
    assert run.reason == "length"
    assert "rkllm_abort" in library.calls()


@everyFamily
def test_prompt_that_fills_the_context_is_refused(key, load, library):
    """What it is in tokens is known of ids: the library would return -1 and nothing else."""
    model = load(key, max_context_len=32)
    with pytest.raises(PromptTooLong) as refused:
        Run(model, ids(*[20] * 32))
    assert refused.value.data == {"tokens": 32, "limit": 32}
    assert "rkllm_run" not in library.calls()
    assert len(Run(model, ids(*[20] * 31)).results) == 1  # room for one token


@everyFamily
def test_text_that_does_not_fit(key, load, library):
    model = load(key, max_context_len=32)
    with pytest.raises(
        RuntimeCallFailed, match=r"returned -1 before any result.*does not fit into max_context_len \(32"
    ):
        Run(model, "word " * 60)
    assert library.events("error")
    assert Run(model).text == "one two three"  # and nothing is left of it


def test_empty_prompt(load):
    """Of 1.1, which puts it into no chat template, nothing is left of it."""
    with pytest.raises(RuntimeCallFailed, match=r"a prompt is empty$"):
        Run(load("1.1"), "")


# Failures


@everyFamily
@pytest.mark.parametrize(
    ("script", "said", "status"),
    [
        ("finish=missing", "returned 0 without finishing", 0),
        ("returns=-1", "rkllm_run returned -1$", -1),
        ("returns=3", "rkllm_run returned 3$", 3),
        ("run=-1", "returned -1 before any result", -1),
        ("error=2", "the library reported an error", -1),
        ("error=2;returns=0", "the library reported an error", 0),
    ],
)
def test_failure(key, script, said, status, load, library):
    model = load(key)
    library.script(script)
    with pytest.raises(RuntimeCallFailed, match=said) as failed:
        Run(model)
    assert failed.value.data == {"function": "rkllm_run", "status": status}
    library.script("")
    assert Run(model).text == "one two three"


def test_error_counts_whatever_comes_after_it(load):
    """FINISH, and 0."""
    model = load("1.3")

    def errorFirst(result, state):
        model._run.received(model._ffi.NULL, 3)

    with pytest.raises(RuntimeCallFailed, match="the library reported an error"):
        Run(model, onResult=errorFirst)


@everyFamily
def test_results_before_a_failure_stand(key, load, library):
    library.script("error=3")
    events = []
    with pytest.raises(RuntimeCallFailed):
        Run(load(key), onResult=lambda result, state: events.append((result.text, state)))
    assert events == [("one", NORMAL), (" two", NORMAL)]


@everyFamily
def test_second_finish_is_dropped(key, load, library):
    library.script("finish=twice")
    run = Run(load(key))
    assert [state for _, state in run.events].count(FINISH) == 1
    assert run.reason == "stop"


@everyFamily
def test_receiver_with_a_defect_ends_the_run(key, load, library):
    """Nothing is raised into C: the run is aborted, and the defect comes out of it."""
    library.script("endless=1;token_ms=1")
    model = load(key, max_new_tokens=-1)
    calls = []

    def failing(result, state):
        calls.append(result)
        raise ZeroDivisionError("the receiver's")

    with pytest.raises(ZeroDivisionError, match="the receiver's"):
        Run(model, onResult=failing)
    assert len(calls) == 1
    library.script("")
    assert Run(model).text == "one two three"


def test_tool_result_that_is_no_json(load):
    with pytest.raises(RuntimeCallFailed, match='the role "tool" is not JSON'):
        Run(load("1.3"), prompt("forty", role="tool"))


# Whether it runs


@everyFamily
def test_whether_it_runs(key, load):
    model = load(key)
    seen = []
    Run(model, onResult=lambda result, state: seen.append(model.isRunning()) if state is NORMAL else None)
    assert seen == [True] * 4
    assert not model.isRunning()


# Sampling, history, late results


@before_1_3
def test_sampling_of_a_run_is_refused_where_the_release_has_none(key, load, library):
    with pytest.raises(NotSupported) as refused:
        Run(load(key), sampling_params=RKLLMSamplingParam())
    assert refused.value.data == {"needs": "sampling_params"}
    assert "rkllm_run" not in library.calls()


@from_1_3
def test_sampling_of_a_run(key, load, library):
    model = load(key)
    Run(model, sampling_params=RKLLMSamplingParam(top_k=7, top_p=0.5, mirostat=2, mirostat_eta=0.25))
    Run(model)
    first, second = (event["sampling"] for event in library.events("run"))
    assert first.startswith("top_k=7 top_p=0.5 temperature=0.8 repeat_penalty=1.1")
    assert first.endswith("mirostat=2 mirostat_tau=5 mirostat_eta=0.25")
    assert second.startswith("top_k=40 top_p=0.9")


@from_1_3
def test_temperature_of_zero_is_said_by_top_k(key, load, library):
    Run(load(key, temperature=0.0), sampling_params=RKLLMSamplingParam(temperature=0.0))
    for event in (*library.events("init"), *library.events("run")):
        assert event["sampling"].startswith("top_k=1 top_p=1 temperature=1 ")


def test_history(load, library):
    model = load("1.2.1")
    Run(model, "one", keep_history=1)
    size = model.getKVCacheSize()
    Run(model, "two", keep_history=1)
    assert model.getKVCacheSize() > size
    assert [event["run"] for event in library.events("run")] == ["mode=0 keep_history=1"] * 2


def test_late_result_of_another_run_is_dropped(load):
    """It is told by its number (seen on 1.2.0 after an abort)."""
    model = load("1.3")
    ours, received = model._loaded.library, []
    result, ffi = ours.ffi.new("RKLLMResult *"), ours.ffi

    def lateResult(_result, _state):
        received.append(ours._received(result, ffi.cast("void *", 1), 0))
        received.append(ours._received(result, ffi.NULL, 0))

    run = Run(model, onResult=lateResult)
    assert run.text == "one two three"
    assert set(received) == {0}


# Values that C must not see


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", float("nan")), ("top_p", 0.0), ("mirostat_tau", float("inf")), ("top_k", 2**31)],
)
def test_sampling_that_no_c_type_holds(field, value, load, library):
    with pytest.raises(InvalidParams, match=rf"\$\.rkllm_infer_params\.sampling_params\.{field}"):
        Run(load("1.3"), sampling_params=RKLLMSamplingParam(**{field: value}))
    assert "rkllm_run" not in library.calls()


@everyFamily
def test_model_that_is_destroyed(key, load, library):
    model = load(key)
    model.destroy()
    model.destroy()
    assert library.calls().count("rkllm_destroy") == 1
    with pytest.raises(ModelNotInitialized):
        Run(model)

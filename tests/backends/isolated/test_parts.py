"""The parts of a backend in a child: frames, calls, journal, limits, output."""

import inspect
import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from rkllm_twisted import errors
from rkllm_twisted.backends.isolated import calls
from rkllm_twisted.backends.isolated.calls import (
    ARGUMENTS,
    NEEDS,
    RUNS,
    RunEnd,
    packAnswer,
    packCall,
    packFailure,
    packResult,
    unpackAnswer,
    unpackCall,
    unpackFailure,
    unpackResult,
)
from rkllm_twisted.backends.isolated.frames import LONGEST, FrameReader, Kind, frame
from rkllm_twisted.backends.isolated.journal import Journal
from rkllm_twisted.backends.isolated.limits import Limits
from rkllm_twisted.backends.isolated.output import LONGEST as LONGEST_LINE
from rkllm_twisted.backends.isolated.output import RATE, Output, printable
from rkllm_twisted.backends.isolated.process import nameOf
from rkllm_twisted.errors import RKLLMError
from rkllm_twisted.interfaces import IRuntimeModel
from rkllm_twisted.values import (
    CallState,
    Delivery,
    EncodedResult,
    InputType,
    RKLLMCrossAttnParam,
    RKLLMEmbedInput,
    RKLLMInferParam,
    RKLLMInput,
    RKLLMLoraAdapter,
    RKLLMMultiModalInput,
    RKLLMParam,
    RKLLMPerfStat,
    RKLLMResult,
    RKLLMResultLastHiddenLayer,
    RKLLMResultLogits,
    RKLLMTokenInput,
)

# Frames

FRAMES = st.lists(st.tuples(st.sampled_from(Kind), st.integers(0, 2**32 - 1), st.binary(max_size=40)), max_size=8)


@given(FRAMES, st.lists(st.integers(0, 400)))
def test_frames_in_any_pieces(frames, cuts):
    stream = b"".join(frame(*one) for one in frames)
    places = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    reader, read = FrameReader(), []
    for start, end in pairwise(places):
        read += reader.receive(stream[start:end])
    assert read == frames


def test_frames_byte_by_byte():
    stream = frame(Kind.CALL, 1, b"body") + frame(Kind.ABORT, 0) + frame(Kind.RESULT, 7, bytes(300))
    reader = FrameReader()
    read = [one for byte in stream for one in reader.receive(bytes([byte]))]
    assert read == [(Kind.CALL, 1, b"body"), (Kind.ABORT, 0, b""), (Kind.RESULT, 7, bytes(300))]


def test_frame_is_there_when_its_last_byte_is():
    reader, whole = FrameReader(), frame(Kind.CALL, 1, b"body")
    assert not list(reader.receive(whole[:-1]))
    assert list(reader.receive(whole[-1:])) == [(Kind.CALL, 1, b"body")]


def test_what_is_no_frame_is_refused_before_its_body_is_waited_for():
    def read(length, kind):
        return list(FrameReader().receive(length.to_bytes(8, "little") + bytes([kind, 0, 0, 0, 0])))

    with pytest.raises(ValueError, match="no frame is of the kind 9"):
        read(1, 9)
    with pytest.raises(ValueError, match="the limit is"):
        read(LONGEST + 1, Kind.RESULT)
    assert not read(LONGEST, Kind.RESULT)


# Calls

VALUES = {
    "init": (RKLLMParam(model_path="/a/b", top_p=1, skip_special_token=True),),
    "run": (RKLLMInput(prompt_input="é\n"), RKLLMInferParam(keep_history=1), Delivery("whole", "base64", "last", 5)),
    "runBatch": ([RKLLMInput(prompt_input="a"), RKLLMInput(prompt_input="b")], RKLLMInferParam(), Delivery()),
    "destroy": (),
    "loadLora": (RKLLMLoraAdapter(lora_adapter_path="p", lora_adapter_name="n", scale=0.5),),
    "loadPromptCache": ("cache",),
    "releasePromptCache": (),
    "clearKVCache": (True, [(0, 4), (9, 10)]),
    "getKVCacheSize": (),
    "setChatTemplate": ("s", "<", ">"),
    "setFunctionTools": ("s", "[]", "t"),
    "setCrossAttnParams": (
        RKLLMCrossAttnParam(
            encoder_k_cache=[0.5], encoder_v_cache=[1.5], encoder_mask=[1.0], encoder_pos=[0], num_tokens=1
        ),
    ),
}


def test_calls_there_and_back():
    assert set(VALUES) == set(ARGUMENTS)
    for name, arguments in VALUES.items():
        assert unpackCall(packCall(name, arguments)) == (name, arguments)
    assert unpackCall(packCall("clearKVCache", (False, None))) == ("clearKVCache", (False, None))


def test_every_function_of_a_model_can_be_called():
    functions = set(IRuntimeModel.names()) - {"abort", "prepare"}
    assert functions == set(ARGUMENTS) - {"init"}
    assert functions == {*NEEDS, *RUNS, "destroy"}


def test_results_there_and_back():
    hidden = RKLLMResultLastHiddenLayer(bytes(range(16)), 2, 2)
    logits = RKLLMResultLogits(bytes(range(16)), 4, 1)
    for result in (
        RKLLMResult(),
        RKLLMResult(text="é", token_id=-1, batch_index=3),
        RKLLMResult(last_hidden_layer=hidden, logits=logits, perf=RKLLMPerfStat(1.5, 2, 3.5, 4, 5.5)),
        EncodedResult(b'{"text":"a"}', True),
        EncodedResult(b"{}", False),
    ):
        for state in CallState:
            assert unpackResult(packResult(result, state)) == (result, state)


def test_answers_there_and_back():
    end = RunEnd("stop", RKLLMPerfStat(1.0, 2, 3.0, 4, 5.0), True)
    assert unpackAnswer(packAnswer(end), RunEnd) == end
    assert unpackAnswer(packAnswer([1, 2]), list[int]) == [1, 2]
    assert unpackAnswer(packAnswer(None), None) is None


MADE = {
    errors.RuntimeCallFailed: lambda: errors.RuntimeCallFailed("x", function="f", status=-1),
    errors.ModelLoadFailed: lambda: errors.ModelLoadFailed("why"),
    errors.NotSupported: lambda: errors.NotSupported(needs="it"),
    errors.PromptTooLong: lambda: errors.PromptTooLong(tokens=9, limit=8),
}
CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, RKLLMError)]
KINDS = [kind for kind in CLASSES if kind.__dict__.get("code")]


@pytest.mark.parametrize("kind", KINDS)
def test_errors_there_and_back(kind):
    error = MADE.get(kind, lambda: kind("what was wrong", extra=[1, None, "x"]))()
    back = unpackFailure(packFailure(error))
    assert type(back) is kind
    assert (back.code, back.retryable) == (error.code, error.retryable)
    assert (back.detail, back.data, str(back)) == (error.detail, error.data, str(error))


def test_every_code_of_the_wire_was_tried():
    assert {kind.code for kind in KINDS} >= set(errors.BY_CODE)


def test_errors_of_a_backends_own():
    class Own(RKLLMError):
        """of its own"""

    class Value:
        def __repr__(self):
            return "Own"

    assert type(unpackFailure(packFailure(Own("so")))) is errors.InternalError
    back = unpackFailure(packFailure(errors.InvalidParams("half \ud800", value=Value())))
    assert type(back) is errors.InvalidParams
    assert back.detail == "half ?"
    assert back.data == {"value": "Own"}


def test_data_named_as_a_parameter_is():
    error = errors.InvalidParams()
    error.data = {"detail": 1, "self": 2}
    assert unpackFailure(packFailure(error)).data == {"detail": 1, "self": 2}


def test_wrong_arguments_are_refused():
    body = calls._encode(calls._Call("loadPromptCache", calls.Raw(calls._encode((7,)))))
    with pytest.raises(Exception, match="Expected `str`"):
        unpackCall(body)


def test_names_of_signals():
    assert (nameOf(11), nameOf(40), nameOf(34)) == ("SIGSEGV", "SIG40", "SIGRTMIN")


# Journal

PARAM = (RKLLMParam(),)


def entriesOf(*done):
    journal = Journal()
    for name, *arguments in done:
        journal.done(name, tuple(arguments))
    return [(name, *arguments) for name, arguments in journal.entries()]


def test_journal_keeps_the_last_of_each():
    init = ("init", *PARAM)
    assert entriesOf(init, ("setChatTemplate", "a"), ("setChatTemplate", "b")) == [init, ("setChatTemplate", "b")]
    for name in ("setFunctionTools", "setCrossAttnParams", "loadPromptCache"):
        assert entriesOf(init, (name, 1), (name, 2)) == [init, (name, 2)]


def test_journal_keeps_all_adapters_in_order():
    assert entriesOf(("loadLora", 1), ("loadLora", 2)) == [("loadLora", 1), ("loadLora", 2)]


def test_journal_forgets_a_released_cache_only():
    kept = [("init", *PARAM), ("setChatTemplate", "a"), ("loadLora", 1)]
    assert entriesOf(*kept, ("loadPromptCache", "x"), ("releasePromptCache",)) == kept
    assert entriesOf(*kept, ("releasePromptCache",), ("loadPromptCache", "x")) == [*kept, ("loadPromptCache", "x")]


def test_journal_keeps_no_runs_and_nothing_of_the_cache():
    assert entriesOf(("run", 1), ("runBatch", 1), ("clearKVCache", 1), ("getKVCacheSize",), ("destroy",)) == []


def test_entries_are_a_copy():
    """They are gone through while calls may still be added."""
    journal = Journal()
    journal.done("loadLora", (1,))
    for _ in journal.entries():
        journal.done("loadLora", (2,))
    assert len(journal.entries()) == 2


def test_journal_knows_what_is_put_around_a_prompt():
    journal = Journal()
    assert journal.around() == 0
    journal.done("setChatTemplate", ("é", "<", ">"))
    journal.done("setFunctionTools", ("", "[1]", "t"))
    journal.done("loadPromptCache", ("a long path",))
    assert journal.around() == 4 + 4


# Limits


def test_limit_of_the_prefill_grows_with_the_prompt():
    limits = Limits(prefill=10, prefillToken=0.5)
    embed = RKLLMEmbedInput(embed=[0.5], n_tokens=7)
    for input, tokens in {
        "text": (RKLLMInput(prompt_input="abcd"), 4),
        "none": (RKLLMInput(), 100),
        "empty": (RKLLMInput(prompt_input=""), 0),
        "bytes": (RKLLMInput(prompt_input="語"), 3),
        "long": (RKLLMInput(prompt_input="a" * 1000), 100),
        "ids": (
            RKLLMInput(
                input_type=InputType.RKLLM_INPUT_TOKEN, token_input=RKLLMTokenInput(input_ids=[1, 2], n_tokens=2)
            ),
            2,
        ),
        "rows": (RKLLMInput(input_type=InputType.RKLLM_INPUT_EMBED, embed_input=embed), 7),
        "images": (
            RKLLMInput(
                input_type=InputType.RKLLM_INPUT_MULTIMODAL,
                multimodal_input=RKLLMMultiModalInput(prompt="<image>", image_embed=[0.5], n_image_tokens=1),
            ),
            100,
        ),
    }.values():
        assert limits.ofPrefill([input], 100) == 10 + 0.5 * tokens
        assert limits.ofPrefill([input, input], 100) == 10 + tokens
        assert limits.ofPrefill([input], 100, around=5) == 10 + 0.5 * min(tokens + 5, 100)


# Output


@pytest.fixture
def output(logged):
    clock = Clock()
    output = Output(clock, "stdout")
    output.clock = clock
    output.logged = lambda: [(event["log_level"].name, event["log_format"].format(**event)) for event in logged]
    return output


def test_lines_become_events(output, logged):
    for piece in (b"one\ntw", b"o\n\n  \nthr", b"ee"):
        output.received(piece)
    assert output.logged() == [("info", "stdout: one"), ("info", "stdout: two")]
    output.ended()
    assert output.logged()[2:] == [("info", "stdout: three")]
    assert {event["log_namespace"] for event in logged} == {"rkllm_twisted.runtime"}


def test_rate_is_limited_and_what_is_dropped_is_counted(output):
    output.received(b"x\n" * (RATE + 7))
    assert len(output.logged()) == RATE
    output.clock.advance(1)
    output.received(b"later\n")
    assert output.logged()[RATE:] == [("warn", "stdout: 7 more lines"), ("info", "stdout: later")]
    output.received(b"x\n" * RATE)
    output.ended()
    assert output.logged()[-1] == ("warn", "stdout: 1 more lines")


def test_nothing_is_dropped_within_the_rate(output):
    output.received(b"x\n" * RATE)
    output.ended()
    assert {level for level, _ in output.logged()} == {"info"}


def test_long_line_is_cut_and_not_kept(output):
    for _ in range(160):
        output.received(b"y" * 65536)
        assert len(output._unfinished) <= LONGEST_LINE
    output.received(b"\nnext\n")
    assert output.logged() == [("info", "stdout: " + "y" * LONGEST_LINE), ("info", "stdout: next")]


def test_control_characters_are_told_and_not_sent(output):
    output.received(b"\x1b[2J\x07 a\rb \xff {braces} \xc2\x9b \xe2\x80\xa8 \xe2\x80\xae tab\t \x00 \xc3\xa9\n")
    ((_, line),) = output.logged()
    assert line.isprintable()
    assert "\\x1b[2J\\x07 a\\rb \ufffd {braces} \\x9b \\u2028 \\u202e tab\\t \\x00 é" in line


@given(st.binary(max_size=300))
def test_whatever_is_printed_is_one_printable_line(data):
    assert printable(data.decode("utf-8", "replace")).isprintable()


def test_json_is_readable_in_the_log(output):
    line = json.dumps({"a": "b\\n"})
    output.received(line.encode() + b"\n")
    assert output.logged() == [("info", f"stdout: {line}")]

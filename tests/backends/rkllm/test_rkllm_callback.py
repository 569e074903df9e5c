"""What a callback of the library may bring that the stand-in never does. No library is opened here."""

import pytest

from rkllm_twisted.backends.rkllm.families import FAMILIES
from rkllm_twisted.backends.rkllm.figures import Figures
from rkllm_twisted.backends.rkllm.pieces import Pieces
from rkllm_twisted.backends.rkllm.running import Run, Task
from rkllm_twisted.values import CallState, Delivery, InferMode, RKLLMPerfStat

NORMAL, WAITING, FINISH, ERROR = range(4)


class Callbacks:
    """A run, and a way to call it back."""

    def __init__(self, key="1.2.1", mode=InferMode.RKLLM_INFER_GENERATE, limit=100, isLimited=True):
        self.events, self.orders = [], []
        self._ffi = FAMILIES[key].ffi
        task = Task(mode, limit, isLimited, 1, 0, Delivery())
        interruption = self  # it has what an Interruption has
        self.run = Run(FAMILIES[key], task, lambda result, state: self.events.append((result, state)), interruption)

    def order(self):
        self.orders.append(True)

    def close(self):
        pass

    def bring(self, state, text=None, **fields):
        result = self._ffi.new("RKLLMResult *")
        self._text = self._ffi.NULL if text is None else self._ffi.new("char[]", text)
        result.text = self._text
        for name, value in fields.items():
            setattr(result, name, value)
        return self.run.received(result, state)

    @property
    def texts(self):
        return [result.text for result, _ in self.events]


def test_nothing_is_handed_on_after_finish():
    callbacks = Callbacks()
    callbacks.bring(NORMAL, b"a", token_id=5)
    callbacks.bring(FINISH, perf={"prefill_tokens": 3})
    callbacks.bring(NORMAL, b"late", token_id=6)
    callbacks.bring(FINISH, perf={"prefill_tokens": 999})
    assert callbacks.texts == ["a"]
    assert callbacks.run.finish() == "stop"
    assert callbacks.events[-1] == (callbacks.events[-1][0], CallState.RKLLM_RUN_FINISH)
    assert callbacks.events[-1][0].perf == RKLLMPerfStat(prefill_tokens=3)


def test_result_that_is_null():
    callbacks = Callbacks(mode=InferMode.RKLLM_INFER_GET_LOGITS)
    null = FAMILIES["1.2.1"].ffi.NULL
    for state in (NORMAL, WAITING, FINISH, ERROR):
        assert callbacks.run.received(null, state) == 0
    assert callbacks.events == []
    assert (callbacks.run.hasFinished, callbacks.run.defect) == (True, None)


def test_error_that_is_null():
    callbacks = Callbacks()
    callbacks.run.received(FAMILIES["1.2.1"].ffi.NULL, ERROR)
    assert callbacks.run.error == ""


def test_error_with_a_text():
    callbacks = Callbacks()
    callbacks.bring(ERROR, b"out of \xff memory")
    assert callbacks.run.error == "out of \ufffd memory"


@pytest.mark.parametrize("state", [5, -1, 1000])
def test_state_that_is_not_known(state):
    callbacks = Callbacks()
    assert callbacks.bring(state, b"x") == 0
    assert callbacks.events == []


@pytest.mark.parametrize("sizes", [(0, 4), (4, 0), (-1, 4), (4, -4)])
def test_tensor_without_a_size(sizes):
    """Sizes above 0 mark that there is one."""
    callbacks = Callbacks(mode=InferMode.RKLLM_INFER_GET_LOGITS)
    numbers = FAMILIES["1.2.1"].ffi.new("float[16]")
    callbacks.bring(NORMAL, logits={"logits": numbers, "vocab_size": sizes[0], "num_tokens": sizes[1]})
    assert callbacks.run.defect is None
    assert callbacks.events[0][0].logits.logits is None


def test_fields_of_another_mode_are_not_read():
    """Nobody promises that they are zero."""
    wild = FAMILIES["1.2.1"].ffi.cast("float *", 0x1000)
    logits = {"logits": wild, "vocab_size": 10**6, "num_tokens": 10**6}
    callbacks = Callbacks()
    callbacks.bring(
        NORMAL, b"a", last_hidden_layer={"hidden_states": wild, "embd_size": 9, "num_tokens": 9}, logits=logits
    )
    assert callbacks.events[0][0].logits.logits is None
    callbacks = Callbacks(mode=InferMode.RKLLM_INFER_GET_LAST_HIDDEN_LAYER)
    callbacks.bring(NORMAL, b"a", logits=logits)
    assert callbacks.run.defect is None


def test_limit_that_the_library_does_not_keep():
    callbacks = Callbacks(limit=2)
    for _ in range(2):
        callbacks.bring(NORMAL, b"a", token_id=5)
    assert callbacks.orders == []  # it was told, and may be about to end
    callbacks.bring(NORMAL, b"a", token_id=5)
    assert callbacks.orders
    callbacks.bring(FINISH, perf={"generate_tokens": 2, "generate_time_ms": 1e6, "prefill_tokens": 7})
    assert callbacks.texts == ["a", "a"]
    assert callbacks.run.finish() == "length"
    perf = callbacks.events[-1][0].perf
    assert (perf.prefill_tokens, perf.generate_tokens) == (7, 1)  # of what was handed on
    assert perf.generate_time_ms < 1e6


def test_limit_that_the_library_was_not_told_ends_the_run_with_its_last_token():
    callbacks = Callbacks("1.2.0", limit=2, isLimited=False)
    callbacks.bring(NORMAL, b"a", token_id=5)
    assert callbacks.orders == []
    callbacks.bring(NORMAL, b"a", token_id=5)
    assert callbacks.orders == [True]


def test_hidden_states_end_the_run_where_the_library_would_go_on():
    ffi = FAMILIES["1.2.0"].ffi
    rows = {"hidden_states": ffi.new("float[4]"), "embd_size": 4, "num_tokens": 1}
    callbacks = Callbacks("1.2.0", mode=InferMode.RKLLM_INFER_GET_LAST_HIDDEN_LAYER, limit=1, isLimited=False)
    callbacks.bring(NORMAL)
    assert callbacks.orders == []
    callbacks.bring(NORMAL, last_hidden_layer=rows)
    assert callbacks.orders == [True]


# What is made of it


def test_bytes_of_waiting_are_kept_until_it_shows_what_they_are():
    """The start of the next text, or a first sight of it."""
    pieces = Pieces()
    assert pieces.add(b"\xf0\x9f", True) is None
    assert pieces.isWaiting()
    assert pieces.add(b"\x98\x80!", False) == "😀!"
    assert pieces.add(b"\xf0\x9f", True) is None
    assert pieces.add("😀".encode(), False) == "😀"
    assert not pieces.isWaiting()
    assert pieces.add(b"\xf0\x9f", True) is None
    assert pieces.add(b"\x98", True) is None
    assert pieces.add(b"", True) is None
    assert pieces.add(b"", False) is None
    assert pieces.add(b"\x80", False) == "😀"
    assert pieces.end() is None
    assert pieces.add(b"\xe2\x82", True) is None
    assert pieces.end() == "\ufffd"
    assert pieces.end() is None
    assert pieces.add(b"\xe2\x82\xac", True) is None
    assert pieces.end() == "€"


def test_letter_behind_half_a_character_shows_that_it_stays_one():
    pieces = Pieces()
    assert pieces.add("🦊".encode()[:2], False) is None
    assert pieces.isWaiting()
    assert pieces.add(b"a", False) == "\ufffda"
    assert pieces.add(b"b", False) == "b"
    assert pieces.end() is None


def test_figures():
    times = iter((10.0, 10.5, 10.75, 11.5))
    figures = Figures(7, lambda: next(times))
    for _ in range(3):
        figures.token()
    perf = figures.perf()
    assert (perf.prefill_time_ms, perf.prefill_tokens, perf.generate_time_ms, perf.generate_tokens) == (500, 7, 1000, 2)
    assert Figures(0, lambda: 3.0).perf().generate_tokens == 0

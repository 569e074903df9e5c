"""Hidden states, logits, and several inputs at once."""

from array import array

import pytest

from rkllm_twisted.backends.rkllm import running
from rkllm_twisted.backends.rkllm.families import FAMILIES
from rkllm_twisted.errors import InvalidParams, NotSupported, ResultTooLarge
from rkllm_twisted.values import Capability, Delivery, InferMode
from tests.backends.rkllm.running import FINISH, NORMAL, WAITING, Run, ids, prompt
from tests.standins import everyFamily, needsCompiler

pytestmark = needsCompiler

HIDDEN, LOGITS = InferMode.RKLLM_INFER_GET_LAST_HIDDEN_LAYER, InferMode.RKLLM_INFER_GET_LOGITS


def having(capability):
    keys = [key for key, family in FAMILIES.items() if capability in family.capabilities]
    return pytest.mark.parametrize("key", keys)


def hiddenOf(token, position, column):
    """As the stand-in computes it (deliver.c)."""
    return -((token * 11 + position * 5 + column * 2) % 512) / 16


def logitOf(token, position, column):
    return (token * 13 + position * 7 + column * 3) % 512 / 16


CHOSEN = 32.0
"""The logit of a token that was chosen from a row (tests/native/README.md)."""


def rowsOf(numbers, tokens, width, start=0):
    return [numbers(token, start + row, column) for row, token in enumerate(tokens) for column in range(width)]


def choosing(token, rows, width=40):
    """Rows of logits, the last of which has chosen a token."""
    rows[len(rows) - width + token] = CHOSEN
    return rows


def floats(data):
    return array("f", data).tolist()


# Hidden states


@everyFamily
def test_hidden_states(key, load):
    run = Run(load(key, "embd=6"), ids(20, 21, 22), mode=HIDDEN)
    brought = [result for result in run.results if result.last_hidden_layer.hidden_states is not None]
    assert len(brought) == 1
    hidden = brought[0].last_hidden_layer
    assert (hidden.num_tokens, hidden.embd_size) == (3, 6)
    assert floats(hidden.hidden_states) == rowsOf(hiddenOf, (20, 21, 22), 6)
    assert len([result for result in run.results if result.token_id >= 0]) == (0 if key == "1.1" else 1)
    assert run.reason == "length"


@everyFamily
@pytest.mark.parametrize("order", ["first", "second"])
def test_rows_come_once_and_no_token_follows(key, order, load, library):
    """Whether a callback without data comes first (1.2.1b1), and whatever the limit of init is."""
    library.script(f"hidden={order};endless=1")
    run = Run(load(key, max_new_tokens=-1), "some words", mode=HIDDEN)
    assert [result.last_hidden_layer.num_tokens > 0 for result in run.results] == [True]


@everyFamily
def test_last_row_alone(key, load):
    run = Run(load(key, "embd=6"), ids(20, 21, 22), Delivery(rows="last"), mode=HIDDEN)
    hidden = run.results[-1].last_hidden_layer
    assert (hidden.num_tokens, hidden.embd_size) == (1, 6)
    assert floats(hidden.hidden_states) == rowsOf(hiddenOf, (22,), 6, start=2)


@everyFamily
def test_buffers_are_released_where_a_release_does_that(key, load, monkeypatch):
    """2 frees the tensor from 1.3 on (issue 504), and means nothing anywhere else; 1 would pause the run."""
    received, returned = running.Run.received, []

    def recorded(self, results, state):
        returned.append(received(self, results, state))
        return returned[-1]

    monkeypatch.setattr(running.Run, "received", recorded)
    model = load(key, max_new_tokens=2)
    Run(model)
    assert set(returned) == {0}
    returned.clear()
    Run(model, ids(20, 21, 22), mode=HIDDEN)
    assert returned.count(2) == (key in ("1.3", "1.3.1"))
    assert set(returned) <= {0, 2}
    if Capability.GET_LOGITS in FAMILIES[key].capabilities:
        returned.clear()
        Run(model, ids(20, 21, 22), mode=LOGITS)
        assert returned == ([2, 2, 0] if key in ("1.3", "1.3.1") else [0, 0, 0])


@having(Capability.CLEAR_KV_CACHE)
def test_rows_are_those_of_the_whole_prompt(key, load, library):
    """A prefix that is found in the cache might have none: the cache is cleared before, unless it is a history."""
    model = load(key, "embd=2")
    for _ in range(2):
        run = Run(model, ids(20, 21, 22), mode=HIDDEN)
        assert run.results[-1].last_hidden_layer.num_tokens == 3
    cleared = library.calls().count("rkllm_clear_kv_cache")
    Run(model, ids(20), mode=HIDDEN, keep_history=1)
    assert library.calls().count("rkllm_clear_kv_cache") == cleared


# Logits


@having(Capability.GET_LOGITS)
def test_logits(key, load):
    """The first result has a row for each token of the prompt, the others one: that of the token before."""
    run = Run(load(key, "vocab=40"), ids(20, 21, 22), mode=LOGITS, max_new_tokens=3)
    assert [result.logits.num_tokens for result in run.results] == [3, 1, 1]
    assert {result.logits.vocab_size for result in run.results} == {40}
    first, second, third = (floats(result.logits.logits) for result in run.results)
    one, two, three = (result.token_id for result in run.results)
    assert first == choosing(one, rowsOf(logitOf, (20, 21, 22), 40))
    assert second == choosing(two, rowsOf(logitOf, (one,), 40, start=3))
    assert third == choosing(three, rowsOf(logitOf, (two,), 40, start=4))
    assert all(result.last_hidden_layer.hidden_states is None for result in run.results)


@having(Capability.GET_LOGITS)
def test_logits_of_the_last_row(key, load):
    run = Run(load(key, "vocab=40"), ids(20, 21, 22), Delivery(rows="last"), mode=LOGITS, max_new_tokens=2)
    assert [result.logits.num_tokens for result in run.results] == [1, 1]
    row = choosing(run.results[0].token_id, rowsOf(logitOf, (22,), 40, start=2))
    assert floats(run.results[0].logits.logits) == row


@having(Capability.GET_LOGITS)
def test_tensor_that_is_too_large(key, load, library):
    """It is not copied; the run is aborted, and the error comes out of it."""
    model = load(key, "vocab=1000", max_new_tokens=-1)
    library.script("endless=1;token_ms=1")
    events = []
    with pytest.raises(ResultTooLarge):
        Run(
            model,
            ids(*range(20, 40)),
            Delivery(maxReply=30_000),
            mode=LOGITS,
            onResult=lambda result, state: events.append(result),
        )
    assert events == []
    library.script("")
    assert Run(model, ids(20), Delivery(maxReply=30_000), mode=LOGITS).results  # one row fits


@everyFamily
def test_text_has_no_tensors(key, load):
    for result in Run(load(key)).results:
        assert result.logits.logits is None
        assert result.last_hidden_layer.hidden_states is None


# Several inputs


@having(Capability.BATCHES)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_batch(key, count, load, library):
    """Each result has its index; one that has finished gives results without text and with a negative token."""
    model = load(key, extend={"n_batch": count})
    inputs = [prompt("word " * (index + 1), enable_thinking=index == 1) for index in range(count)]
    run = Run(model, inputs)
    assert [result.batch_index for result in run.results] == list(range(count)) * (count + 1)
    for index in range(count):
        own = [result for result in run.results if result.batch_index == index]
        assert "".join(result.text or "" for result in own) == ("word " * (index + 1)).strip()
        assert [result.token_id >= 0 for result in own] == [True] * (index + 2) + [False] * (count - index - 1)
    assert [state for _, state in run.events].count(FINISH) == 1
    assert run.events[-1][0].batch_index is None
    assert run.reason == "stop"
    assert len(library.events("run")) == count
    assert [event["input"] for event in library.events("run")] == [
        f"type=0 role=user thinking={int(index == 1)}" for index in range(count)
    ]


@having(Capability.BATCHES)
def test_characters_of_a_batch_are_joined_each_for_itself(key, load, library):
    library.script(r"tokens=a\xc3|\xa9b;utf8=raw")
    run = Run(load(key, extend={"n_batch": 2}), [prompt("x"), prompt("y")])
    for index in range(2):
        assert "".join(result.text or "" for result in run.results if result.batch_index == index) == "aéb"
    library.script(r"tokens=a\xc3;utf8=raw;eos=none")
    left = Run(load(key, extend={"n_batch": 2}), [prompt("x"), prompt("y")]).events
    assert [(result.text, result.batch_index, state) for result, state in left[-3:]] == [
        ("\ufffd", 0, NORMAL),
        ("\ufffd", 1, NORMAL),
        (None, None, FINISH),
    ]
    assert left[0][1] is NORMAL
    assert left[0][0].text == "a"
    assert WAITING not in [state for _, state in left]


@having(Capability.BATCHES)
def test_hidden_states_of_a_batch(key, load):
    run = Run(load(key, "embd=3", extend={"n_batch": 2}), [ids(20, 21), ids(30)], mode=HIDDEN)
    first, second = (result.last_hidden_layer for result in run.results)
    assert floats(first.hidden_states) == rowsOf(hiddenOf, (20, 21), 3)
    assert floats(second.hidden_states) == rowsOf(hiddenOf, (30,), 3)


@having(Capability.BATCHES)
def test_limit_of_a_batch(key, load, library):
    library.script("endless=1;token_ms=1")
    run = Run(load(key, max_new_tokens=-1, extend={"n_batch": 2}), [prompt("x"), prompt("y")], max_new_tokens=3)
    assert len(run.results) == 6
    assert run.reason == "length"


@having(Capability.BATCHES)
def test_batch_that_is_refused(key, load, library):
    model = load(key, extend={"n_batch": 2})
    with pytest.raises(NotSupported, match=r"\$\.rkllm_infer_params\.mode: .*no logits of several"):
        Run(model, [prompt("x"), prompt("y")], mode=LOGITS)  # issue 406
    with pytest.raises(InvalidParams, match=r"\$\.rkllm_input: expected 2 inputs, as n_batch of init, got 1"):
        Run(model, "x")
    with pytest.raises(InvalidParams, match=r"expected 2 inputs.*got 3"):
        Run(model, [prompt("x")] * 3)
    with pytest.raises(InvalidParams, match=r"\$\.rkllm_input\[1\]\.token_input\.n_tokens"):
        Run(model, [ids(1), ids()])
    assert "rkllm_run" not in library.calls()


@pytest.mark.parametrize("key", ["1.1", "1.2.0", "1.2.1b1"])
def test_release_without_batches(key, load):
    with pytest.raises(NotSupported) as refused:
        Run(load(key), [prompt("x"), prompt("y")])
    assert refused.value.data == {"needs": "n_batch"}

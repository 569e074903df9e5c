"""Whatever stands in the params is accepted or refused (W-ERRORS)."""

import contextlib
import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from rkllm_twisted.backends.scripted import ScriptedBackend
from rkllm_twisted.errors import InvalidParams, ParseError
from rkllm_twisted.methods.checks import (
    checkInferParam,
    checkLora,
    checkParam,
    checkPromptCache,
    checkRanges,
)
from rkllm_twisted.methods.decoding import completed
from rkllm_twisted.methods.parameters import (
    ClearParams,
    CrossAttentionParams,
    InitParams,
    LoraParams,
    PromptCacheParams,
    RunParams,
)
from rkllm_twisted.testing.peers import Server
from rkllm_twisted.values.arrays import checkCrossAttention, checkInput
from tests.methods.everything import EVERYTHING, PLACES, replaced

CLOCK = Clock()
TABLE = Server(ScriptedBackend(CLOCK), CLOCK).factory.table


def checkRun(params):
    given = params.rkllm_input if isinstance(params.rkllm_input, list) else [params.rkllm_input]
    for input in given:
        checkInput(completed(input))
    checkInferParam(params.rkllm_infer_params)


CHECKS = {
    InitParams: lambda params: checkParam(completed(params.param), params.param),
    RunParams: checkRun,
    LoraParams: lambda params: checkLora(completed(params.lora_adapter)),
    PromptCacheParams: lambda params: checkPromptCache(params.prompt_cache_path),
    ClearParams: lambda params: checkRanges(params.start_pos, params.end_pos),
    CrossAttentionParams: lambda params: checkCrossAttention(completed(params.cross_attn_params)),
}

# What Python's own JSON does not write.
NUMBERS = ["1e400", "-1e400", "1" + "0" * 400, "1e-400", "-0", "1.0", "1e2"]
RAW = st.sampled_from([*NUMBERS, r'"\u0000"', r'"\ud800"', r'{"\ud800":0}', "[" * 500 + "]" * 500])
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["role", "n_tokens"]), inner),
    max_leaves=8,
)
MARK = "the value goes here"


@st.composite
def calls(draw):
    """A method and the JSON of its params, with anything in one place."""
    method, place = draw(st.sampled_from(PLACES))
    value = draw(RAW | PLAIN.map(lambda plain: msgspec.json.encode(plain).decode()))
    params = replaced(method, place, MARK)
    shape = [*params.values()] if draw(st.booleans()) else params
    return method, json.dumps(shape).replace(f'"{MARK}"', value).encode()


@settings(deadline=None, max_examples=1500)
@given(calls())
def test_never_a_defect(call):
    parameters = TABLE.methods[call[0]].parameters
    try:
        decoded = parameters.decode(call[1])
    except (InvalidParams, ParseError) as refused:
        assert len(refused.detail) < 500  # noqa: PT017  # or it was accepted
        return
    with contextlib.suppress(InvalidParams):
        CHECKS.get(parameters.kind, bool)(decoded)


@settings(deadline=None, max_examples=300)
@given(calls())
def test_never_a_defect_over_the_wire(call):
    """Nor in what a method does with them."""
    clock = Clock()
    peer = Server(ScriptedBackend(clock), clock).connect()
    peer.send(b'{"jsonrpc":"2.0","id":1,"method":"%b","params":%b}\n' % (call[0].encode(), call[1]))
    answers = peer.received()
    assert answers
    assert all(answer.get("error", {}).get("code") != -32603 for answer in answers)


@pytest.mark.parametrize("method", ["rkllm.init", "rkllm.run", "rkllm.load_lora", "rkllm.clear_kv_cache"])
def test_nothing_wrong_is_accepted(method):
    parameters = TABLE.methods[method].parameters
    CHECKS[parameters.kind](parameters.decode(msgspec.json.encode(EVERYTHING[method])))

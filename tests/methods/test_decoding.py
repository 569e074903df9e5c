"""Parameters into structs, where a transcript cannot show it."""

import pytest
from msgspec import Struct, structs

from rkllm_twisted.errors import InvalidParams, ParseError
from rkllm_twisted.methods.decoding import ParamsDecoder, completed
from rkllm_twisted.methods.parameters import FunctionToolsParams
from rkllm_twisted.values import RKLLMExtendParam, RKLLMInput, RKLLMParam


class Params(Struct):
    param: RKLLMParam
    inputs: list[RKLLMInput] | None = None


decoder = ParamsDecoder(Params)


def test_what_is_left_out_comes_from_the_default():
    default = RKLLMParam(model_path="d", top_k=7, extend_param=RKLLMExtendParam(n_batch=3, enabled_cpus_num=2))
    given = decoder.decode(b'[null,{"top_p":1,"temperature":null,"extend_param":{"n_batch":5}}]').param
    assert completed(given, default) == structs.replace(
        default, top_p=1.0, extend_param=RKLLMExtendParam(n_batch=5, enabled_cpus_num=2)
    )


def test_without_a_default_the_struct_has_its_own():
    assert completed(decoder.decode(b'{"param":{"top_k":1}}').param) == RKLLMParam(top_k=1)


def test_path_into_a_list():
    with pytest.raises(InvalidParams) as refused:
        decoder.decode(b'[{},[{"role":"user"},{"role":5}]]')
    assert refused.value.detail == "$.params[1][1].role: expected string, got 5"


def test_long_value_is_cut_short():
    with pytest.raises(InvalidParams) as refused:
        decoder.decode(b'[{"top_k":"%b"}]' % (b"x" * 1000))
    assert len(refused.value.detail) < 150


@pytest.mark.parametrize("value", [b"2147483648", b"-2147483649", b"1.5", b"1e3", b"true"])
def test_what_is_no_int32(value):
    with pytest.raises(InvalidParams):
        decoder.decode(b'[{"top_k":%b}]' % value)


def test_string_that_is_not_utf8():
    with pytest.raises(ParseError):
        decoder.decode(b'[{"model_path":"\xff"}]')


@pytest.mark.parametrize(
    ("params", "place"),
    [
        (b"[null,{}]", "$.params[1].top_p: bad"),
        (b"[{}]", "$.params[0].top_p: bad"),
        (b'{"param":{}}', "$.params.param.top_p: bad"),
    ],
)
def test_place_of_a_parameter_by_its_name(params, place):
    assert decoder.locate(params, "$.param.top_p: bad") == place
    assert decoder.locate(params, "something else") == "something else"


@pytest.mark.parametrize(
    "params", [b'{"par\xffam":{}}', b'{"\\ud800":1}', b'{"\\ud800 ":{}}', b'["\\ud800"]', b'[{"\\ud8":1}]']
)
def test_text_that_is_none(params):
    """W-ERRORS: in a name, and half a surrogate pair."""
    with pytest.raises(ParseError):
        decoder.decode(params)


@pytest.mark.parametrize("depth", [900, 2000, 100_000])
def test_nested_too_deeply(depth):
    """W-ERRORS: that it can be skipped does not mean that it can be decoded, and the other way round."""
    try:
        ParamsDecoder(FunctionToolsParams).decode(b'["",%b%b]' % (b"[" * depth, b"]" * depth))
    except ParseError as error:
        assert "recursion" in error.detail  # noqa: PT017  # the depth that Python allows is its own


def test_nul_in_plain_json_is_spelled_again():
    """Tools are JSON for the runtime too."""
    assert ParamsDecoder(FunctionToolsParams).decode(b'["",["\\u0000"]]').tools == ["\0"]


def test_backslash_before_what_looks_like_a_nul():
    assert decoder.decode(b'[{"model_path":"a\\\\u0000"}]').param.model_path == "a\\u0000"

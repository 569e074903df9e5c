"""What fits a field: the words of every refusal, and the check for direct users of a runtime."""

from typing import Any

import pytest
from msgspec import Struct, structs

from rkllm_twisted.errors import InvalidParams
from rkllm_twisted.methods.decoding import ParamsDecoder
from rkllm_twisted.methods.parameters import (
    ClearParams,
    CrossAttentionParams,
    FunctionToolsParams,
    InitParams,
    LoraParams,
    PromptCacheParams,
    RunParams,
)
from rkllm_twisted.ranges import Flag, Float, Int32, Name, Path, Size, checkFields, inWords
from rkllm_twisted.values import InputType, RKLLMExtendParam, RKLLMParam, RKLLMSamplingParam


def refusal(kind, params):
    """What the decoder says of the first parameter."""
    with pytest.raises(InvalidParams) as refused:
        ParamsDecoder(kind).decode(params)
    return refused.value.detail.removeprefix("$.params[0]")


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ('"n_keep":-2', ".n_keep: expected integer from -1 to 2147483647, got -2"),
        ('"max_context_len":-1', ".max_context_len: expected integer from 0 to 2147483647, got -1"),
        ('"max_new_tokens":-2', ".max_new_tokens: expected integer from -1 to 2147483647, got -2"),
        ('"top_k":2147483648', ".top_k: expected integer from -2147483648 to 2147483647, got 2147483648"),
        ('"top_k":"x"', '.top_k: expected integer, got "x"'),
        ('"top_p":0', ".top_p: expected number above 0, at most 1, got 0"),
        ('"top_p":1.01', ".top_p: expected number above 0, at most 1, got 1.01"),
        ('"temperature":-0.1', ".temperature: expected number of 0 or more, got -0.1"),
        ('"temperature":1e39', ".temperature: expected a number that a C type can hold, got 1e39"),
        ('"presence_penalty":-1e400', ".presence_penalty: expected a number that a C type can hold, got -1e400"),
        ('"repeat_penalty":0', ".repeat_penalty: expected number above 0, got 0"),
        ('"frequency_penalty":2.5', ".frequency_penalty: expected number from -2 to 2, got 2.5"),
        ('"mirostat":3', ".mirostat: expected integer from 0 to 2, got 3"),
        ('"is_async":2', ".is_async: expected true, false, 1 or 0, got 2"),
        ('"is_async":"yes"', '.is_async: expected true, false, 1 or 0, got "yes"'),
        ('"model_path":["a"]', '.model_path: expected string, got ["a"]'),
        ('"img_end":"a\\u0000b"', ".img_end: expected string without NUL characters, got 'a\\x00b'"),
        ('"extend_param":[]', ".extend_param: expected object, got []"),
        ('"extend_param":{"n_batch":0}', ".extend_param.n_batch: expected integer from 1 to 100, got 0"),
        ('"extend_param":{"reserved":0}', ".extend_param.reserved: expected null, got 0"),
        ('"extend_param":{"n_bach":1}', ".extend_param.n_bach: unknown field, the nearest known one is n_batch"),
        (
            '"extend_param":{"enabled_cpus_num":9}',
            ".extend_param.enabled_cpus_num: expected integer from 1 to 8, got 9",
        ),
    ],
)
def test_of_init(fields, detail):
    """W-ERRORS, W-PARAMS."""
    assert refusal(InitParams, b"[{%b}]" % fields.encode()) == detail


@pytest.mark.parametrize(
    ("kind", "params", "detail"),
    [
        (RunParams, b'[{"input_type":"x"}]', '.input_type: expected one of 0, 1, 2, 3, got "x"'),
        (RunParams, b'["x"]', ': expected object or array, got "x"'),
        (RunParams, b"[[]]", ": expected object or array of 1 to 100 values, got []"),
        (RunParams, b'[[{"role":1}]]', "[0].role: expected string, got 1"),
        (RunParams, b'[[{"rol":1}]]', "[0].rol: unknown field, the nearest known one is role"),
        (RunParams, b'[[{"role":"\\u0000"}]]', "[0].role: expected string without NUL characters, got '\\x00'"),
        (RunParams, b'[{"token_input":{"input_ids":[]}}]', ".token_input.n_tokens: missing"),
        (
            RunParams,
            b'[{"token_input":{"n_tokens":1,"input_ids":[1,-1]}}]',
            ".token_input.input_ids[1]: expected integer from 0 to 2147483647, got -1",
        ),
        (
            RunParams,
            b'[{"embed_input":{"n_tokens":1,"embed":[1,1e39]}}]',
            ".embed_input.embed[1]: expected a number that a C type can hold, got 1e39",
        ),
        (
            RunParams,
            b'[{"embed_input":{"n_tokens":0,"embed":[]}}]',
            ".embed_input.n_tokens: expected integer from 1 to 2147483647, got 0",
        ),
        (
            RunParams,
            b'{"rkllm_input":{},"userdata":{"stream":"linez"}}',
            '$.params.userdata.stream: expected one of "lines", "progress", "whole", got "linez"',
        ),
        (
            RunParams,
            b'{"rkllm_input":{},"userdata":{"rows":5}}',
            '$.params.userdata.rows: expected one of "all", "last", got 5',
        ),
        (PromptCacheParams, b'[""]', ': expected string of 1 to 4095 characters, got ""'),
        (
            PromptCacheParams,
            b'["%b"]' % (b"a" * 4096),
            ': expected string of 1 to 4095 characters, got "' + "a" * 56 + "...",
        ),
        (
            LoraParams,
            b'[{"lora_adapter_path":"a","lora_adapter_name":""}]',
            '.lora_adapter_name: expected string of 1 to 255 characters, got ""',
        ),
        (ClearParams, b"[1,[]]", "$.params[1]: expected array of 1 to 100 values, got []"),
        (FunctionToolsParams, b'["",5]', "$.params[1]: expected string or object or array, got 5"),
        (
            CrossAttentionParams,
            b'[{"num_tokens":0}]',
            ".num_tokens: expected integer from 1 to 2147483647, got 0",
        ),
    ],
)
def test_of_others(kind, params, detail):
    """W-ERRORS, W-OPTIONS, W-NBATCH."""
    assert refusal(kind, params) == detail


@pytest.mark.parametrize("name", ["a - at `$.b", "` - at `$", "`", "a` - at `$.b", "\\u0000", "a\\nb", "$.params[0]"])
def test_unknown_field_of_any_name(name):
    """The message of msgspec holds names as they come."""
    for params in (b'[{"%b":1}]', b'[{"extend_param":{"%b":1}}]'):
        assert ": unknown field" in refusal(InitParams, params % name.encode())


def test_long_name_is_cut_short():
    """And not compared with all others at length."""
    for params in (b'[{"%b":1}]' % (b"x" * 10**6), b'{"%b":1}' % (b"x" * 10**6)):
        assert len(refusal(InitParams, params)) < 150


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Int32, "integer from -2147483648 to 2147483647"),
        (Float, "number"),
        (Float | None, "number"),
        (Flag, "true, false, 1 or 0"),
        (Flag | None, "true, false, 1 or 0"),
        (Path, "string of at most 4095 characters"),
        (Name, "string of 1 to 255 characters"),
        (list[Size], "array"),
        (InputType, "one of 0, 1, 2, 3"),
        (str | list[Any] | dict[str, Any], "string or array or object"),
        (RKLLMParam | list[RKLLMParam], "object or array"),
    ],
)
def test_types_in_words(kind, words):
    assert inWords(kind) == words


class Plain(Struct):
    numbers: list[Float] = []


class TestCheckFields:
    def test_accepted(self):
        checkFields(RKLLMParam(model_path="a", extend_param=RKLLMExtendParam(n_batch=100)), "$.param")

    @pytest.mark.parametrize(
        ("value", "detail"),
        [
            (RKLLMParam(top_p=0.0), "top_p: expected number above 0, at most 1, got 0.0"),
            (RKLLMParam(temperature=float("nan")), "temperature: expected number of 0 or more, got nan"),
            (RKLLMParam(mirostat_eta=float("inf")), "mirostat_eta: expected a number that a C type can hold, got inf"),
            (
                RKLLMParam(extend_param=RKLLMExtendParam(n_batch=0)),
                "extend_param.n_batch: expected integer from 1 to 100, got 0",
            ),
            (Plain(numbers=[0.0, 1e300]), "numbers[1]: expected a number that a C type can hold, got 1e+300"),
        ],
    )
    def test_refused(self, value, detail):
        with pytest.raises(InvalidParams) as refused:
            checkFields(value, "$.x")
        assert refused.value.detail == f"$.x.{detail}"


def test_defaults_are_in_their_ranges():
    for value in (RKLLMParam(), RKLLMSamplingParam(), structs.replace(RKLLMExtendParam(), n_batch=8)):
        checkFields(value, "$")

"""Rules over several fields, each once (W-PARAMS, W-ERRORS)."""

import pytest
from msgspec import structs

from rkllm_twisted.errors import InvalidParams
from rkllm_twisted.methods.checks import (
    checkInferParam,
    checkLora,
    checkParam,
    checkPromptCache,
    checkRanges,
)
from rkllm_twisted.methods.decoding import ParamsDecoder, completed
from rkllm_twisted.methods.parameters import InitParams
from rkllm_twisted.values import (
    RKLLMExtendParam,
    RKLLMInferParam,
    RKLLMLoraAdapter,
    RKLLMParam,
    RKLLMPromptCacheParam,
)

LONG = "é" * 2048
"""4096 bytes, and not as many characters."""


def refusal(check, *values):
    """What a check says of values that it refuses."""
    with pytest.raises(InvalidParams) as refused:
        check(*values)
    return refused.value.detail


def extended(**fields):
    return RKLLMParam(extend_param=RKLLMExtendParam(**fields))


class TestParam:
    @pytest.mark.parametrize(
        "param",
        [
            RKLLMParam(),
            RKLLMParam(max_context_len=512, n_keep=511),
            RKLLMParam(max_context_len=0, n_keep=4096),
            RKLLMParam(max_context_len=512, n_keep=-1),
            extended(enabled_cpus_num=4, enabled_cpus_mask=0b11110000),
            extended(enabled_cpus_num=3, enabled_cpus_mask=0),
        ],
    )
    def test_accepted(self, param):
        checkParam(param)

    def test_n_keep_leaves_room(self):
        param = RKLLMParam(max_context_len=512, n_keep=512)
        assert refusal(checkParam, param) == "$.param.n_keep: expected less than max_context_len, 512, got 512"

    def test_mask_against_count(self):
        assert refusal(checkParam, extended(enabled_cpus_num=4, enabled_cpus_mask=0b111)) == (
            "$.param.extend_param.enabled_cpus_mask: expected as many CPUs as enabled_cpus_num says, 4, "
            "got 7, which names 3"
        )

    @pytest.mark.parametrize("extend", [b'{"enabled_cpus_num":3}', b'{"enabled_cpus_mask":15}', b"null", b"{}"])
    def test_one_that_was_not_given_is_the_machine_s_affair(self, extend):
        """W-PARAMS: a default mask fits the machine, not the number that a client chose."""
        given = ParamsDecoder(InitParams).decode(b'[{"extend_param":%b}]' % extend).param
        checkParam(completed(given, extended(enabled_cpus_num=8, enabled_cpus_mask=0xFF)), given)

    def test_both_given(self):
        given = ParamsDecoder(InitParams).decode(b'[{"extend_param":{"enabled_cpus_num":3,"enabled_cpus_mask":15}}]')
        assert "enabled_cpus_mask" in refusal(checkParam, completed(given.param), given.param)

    def test_path_in_bytes(self):
        assert refusal(checkParam, RKLLMParam(model_path=LONG)) == (
            f"$.param.model_path: expected a path of at most 4095 bytes, got {'é' * 57}... of 4096"
        )


class TestPaths:
    def test_saved_prompt_cache(self):
        checkInferParam(None)
        checkInferParam(RKLLMInferParam())
        checkInferParam(RKLLMInferParam(prompt_cache_params=RKLLMPromptCacheParam(prompt_cache_path=LONG[1:])))
        bad = RKLLMInferParam(prompt_cache_params=RKLLMPromptCacheParam(prompt_cache_path=LONG))
        place = "$.rkllm_infer_params.prompt_cache_params.prompt_cache_path: "
        assert refusal(checkInferParam, bad).startswith(place)

    def test_adapter(self):
        adapter = RKLLMLoraAdapter(lora_adapter_path="a", lora_adapter_name="b")
        checkLora(adapter)
        bad = structs.replace(adapter, lora_adapter_path=LONG)
        assert refusal(checkLora, bad).startswith("$.lora_adapter.lora_adapter_path: ")

    def test_prompt_cache(self):
        checkPromptCache("a")
        assert refusal(checkPromptCache, LONG).startswith("$.prompt_cache_path: ")


class TestRanges:
    def test_accepted(self):
        assert checkRanges(None, None) is None
        assert checkRanges([0, 5], [1, 9]) == [(0, 1), (5, 9)]

    @pytest.mark.parametrize(("starts", "ends"), [([1], None), (None, [1]), ([1, 2], [3])])
    def test_as_many_starts_as_ends(self, starts, ends):
        assert refusal(checkRanges, starts, ends).startswith("$.start_pos: ")

    def test_none_is_empty(self):
        assert refusal(checkRanges, [0, 4], [1, 4]) == "$.end_pos[1]: expected more than start_pos[1], 4, got 4"

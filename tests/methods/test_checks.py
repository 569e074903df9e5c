"""Rules over several fields, each once (W-PARAMS, W-ERRORS)."""

import pytest
from msgspec import structs

from rkllm_twisted.errors import InvalidParams
from rkllm_twisted.methods.checks import (
    checkCrossAttention,
    checkInferParam,
    checkInput,
    checkLora,
    checkParam,
    checkPromptCache,
    checkRanges,
)
from rkllm_twisted.methods.decoding import ParamsDecoder, completed
from rkllm_twisted.methods.parameters import InitParams
from rkllm_twisted.values import (
    InputType,
    RKLLMAudio,
    RKLLMCrossAttnParam,
    RKLLMEmbedInput,
    RKLLMExtendParam,
    RKLLMImage,
    RKLLMInferParam,
    RKLLMInput,
    RKLLMLoraAdapter,
    RKLLMMultiModalInput,
    RKLLMParam,
    RKLLMPromptCacheParam,
    RKLLMTokenInput,
    RKLLMVideo,
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


def multimodal(prompt="", **fields):
    chosen = RKLLMMultiModalInput(prompt=prompt, **fields)
    return RKLLMInput(input_type=InputType.RKLLM_INPUT_MULTIMODAL, multimodal_input=chosen)


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


class TestInput:
    @pytest.mark.parametrize(
        "input",
        [
            RKLLMInput(prompt_input=""),
            RKLLMInput(prompt_input="a literal <image> in a text"),
            RKLLMInput(prompt_input="a", token_input=RKLLMTokenInput(input_ids=[], n_tokens=9)),
            RKLLMInput(input_type=InputType(1), token_input=RKLLMTokenInput(input_ids=[1, 2], n_tokens=2)),
            RKLLMInput(input_type=InputType(2), embed_input=RKLLMEmbedInput(embed=[0.0] * 6, n_tokens=2)),
            multimodal("only text"),
            multimodal("<image>", image_embed=[0.0] * 6, n_image_tokens=3),
            multimodal("<image> and <image>", image_embed=[0.0] * 12, n_image_tokens=3, n_image=2),
            multimodal("<image>", image=RKLLMImage(image_embed=[0.0] * 3, n_image_tokens=3, n_image=1)),
            multimodal(
                "<video>", video=RKLLMVideo(video_embed=[0.0] * 12, n_frame_tokens=2, n_frame_per_video=3, n_video=1)
            ),
            multimodal("", audio=RKLLMAudio(audio_embed=[0.0] * 4, n_audio_tokens=2, n_audio=1)),
        ],
    )
    def test_accepted(self, input):
        checkInput(input)

    @pytest.mark.parametrize(
        ("kind", "member"), [(0, "prompt_input"), (1, "token_input"), (2, "embed_input"), (3, "multimodal_input")]
    )
    def test_member_is_there(self, kind, member):
        found = refusal(checkInput, RKLLMInput(input_type=InputType(kind)))
        assert found == f"$.rkllm_input.{member}: missing, input_type {kind} needs it"

    def test_place_of_one_of_several(self):
        """W-NBATCH."""
        assert refusal(checkInput, RKLLMInput(), "$.rkllm_input[2]").startswith("$.rkllm_input[2].prompt_input: ")

    @pytest.mark.parametrize("count", [1, 3])
    def test_token_ids(self, count):
        tokens = RKLLMTokenInput(input_ids=[5, 6], n_tokens=count)
        assert refusal(checkInput, RKLLMInput(input_type=InputType(1), token_input=tokens)) == (
            f"$.rkllm_input.token_input.input_ids: expected as many numbers as n_tokens says, {count}, got 2"
        )

    @pytest.mark.parametrize("length", [0, 5])
    def test_embeddings(self, length):
        embed = RKLLMEmbedInput(embed=[0.0] * length, n_tokens=2)
        assert refusal(checkInput, RKLLMInput(input_type=InputType(2), embed_input=embed)) == (
            "$.rkllm_input.embed_input.embed: expected a length that is a multiple of n_tokens, 2, "
            f"got {length} numbers"
        )

    @pytest.mark.parametrize(
        ("fields", "detail"),
        [
            (
                {"prompt": "<image>", "image_embed": [0.0] * 5, "n_image": 1, "n_image_tokens": 2},
                "image_embed: expected a length that is a multiple of n_image × n_image_tokens, 2, got 5 numbers",
            ),
            (
                {"prompt": "<image>", "n_image": 1, "n_image_tokens": 2},
                "image_embed: expected a length that is a multiple of n_image × n_image_tokens, 2, got 0 numbers",
            ),
            (
                {"prompt": "<image>", "image_embed": [0.0]},
                "n_image_tokens: expected 1 or more, as there are embeddings, got 0",
            ),
            ({"prompt": "a stray <image>"}, "prompt: expected <image> 0 times, as n_image, got it 1 times"),
            (
                {"prompt": "<image>", "image_embed": [0.0] * 4, "n_image": 2, "n_image_tokens": 2},
                "prompt: expected <image> 2 times, as n_image, got it 1 times",
            ),
            (
                {"prompt": "<image>", "image_embed": [0.0], "n_image_tokens": 1, "image": RKLLMImage()},
                "image_embed: expected it either here or in image, got both",
            ),
            (
                {"prompt": "<image>", "image": RKLLMImage(image_embed=[0.0], n_image_tokens=1)},
                "image.n_image: expected 1 or more, as there are embeddings, got 0",
            ),
            (
                {"prompt": "", "video": RKLLMVideo(video_embed=[0.0], n_video=1, n_frame_tokens=1)},
                "video.n_frame_per_video: expected 1 or more, as there are embeddings, got 0",
            ),
            (
                {
                    "prompt": "",
                    "video": RKLLMVideo(video_embed=[0.0], n_video=1, n_frame_tokens=1, n_frame_per_video=1),
                },
                "prompt: expected <video> 1 times, as n_video, got it 0 times",
            ),
            (
                {"prompt": "", "audio": RKLLMAudio(audio_embed=[0.0], n_audio=1, n_audio_tokens=2)},
                "audio.audio_embed: expected a length that is a multiple of n_audio × n_audio_tokens, 2, got 1 numbers",
            ),
        ],
    )
    def test_embeddings_beside_a_text(self, fields, detail):
        assert refusal(checkInput, multimodal(**fields)) == f"$.rkllm_input.multimodal_input.{detail}"


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


class TestCrossAttention:
    good = RKLLMCrossAttnParam(
        encoder_k_cache=[0.0] * 6,
        encoder_v_cache=[0.0] * 6,
        encoder_mask=[1.0, 1.0],
        encoder_pos=[0, 1],
        num_tokens=2,
    )

    def test_accepted(self):
        checkCrossAttention(self.good)

    @pytest.mark.parametrize(
        ("fields", "detail"),
        [
            ({"encoder_mask": [1.0]}, "encoder_mask: expected as many numbers as num_tokens says, 2, got 1"),
            ({"encoder_pos": [1, 2, 3]}, "encoder_pos: expected as many numbers as num_tokens says, 2, got 3"),
            (
                {"encoder_k_cache": [0.0] * 5},
                "encoder_k_cache: expected a length that is a multiple of num_tokens, 2, got 5 numbers",
            ),
            (
                {"encoder_v_cache": [0.0] * 4},
                "encoder_v_cache: expected as many numbers as encoder_k_cache says, 6, got 4",
            ),
        ],
    )
    def test_lengths(self, fields, detail):
        bad = structs.replace(self.good, **fields)
        assert refusal(checkCrossAttention, bad) == f"$.cross_attn_params.{detail}"


class TestRanges:
    def test_accepted(self):
        assert checkRanges(None, None) is None
        assert checkRanges([0, 5], [1, 9]) == [(0, 1), (5, 9)]

    @pytest.mark.parametrize(("starts", "ends"), [([1], None), (None, [1]), ([1, 2], [3])])
    def test_as_many_starts_as_ends(self, starts, ends):
        assert refusal(checkRanges, starts, ends).startswith("$.start_pos: ")

    def test_none_is_empty(self):
        assert refusal(checkRanges, [0, 4], [1, 4]) == "$.end_pos[1]: expected more than start_pos[1], 4, got 4"

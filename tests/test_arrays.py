"""Arrays against the numbers beside them, each rule once (W-PARAMS, W-ERRORS)."""

import pytest
from msgspec import structs

from rkllm_twisted.errors import InvalidParams
from rkllm_twisted.values import (
    InputType,
    RKLLMAudio,
    RKLLMCrossAttnParam,
    RKLLMEmbedInput,
    RKLLMImage,
    RKLLMInput,
    RKLLMMultiModalInput,
    RKLLMTokenInput,
    RKLLMVideo,
)
from rkllm_twisted.values.arrays import checkCrossAttention, checkInput


def refusal(check, *values):
    """What a check says of values that it refuses."""
    with pytest.raises(InvalidParams) as refused:
        check(*values)
    return refused.value.detail


def multimodal(prompt="", **fields):
    chosen = RKLLMMultiModalInput(prompt=prompt, **fields)
    return RKLLMInput(input_type=InputType.RKLLM_INPUT_MULTIMODAL, multimodal_input=chosen)


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

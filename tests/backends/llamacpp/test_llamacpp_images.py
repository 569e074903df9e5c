"""Images as input: rows of embeddings between texts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rkllm_twisted.backends.llamacpp.context import BLOCK
from rkllm_twisted.backends.llamacpp.inputs import IMAGE
from rkllm_twisted.errors import InvalidParams, NotSupported
from rkllm_twisted.values import (
    RKLLMAudio,
    RKLLMImage,
    RKLLMVideo,
)
from tests.backends.llamacpp.asking import (
    imageInput,
    logitRows,
    logitsOf,
    numbers,
    someRows,
)
from tests.backends.llamacpp.running import greedy
from tests.backends.runs import Run
from tests.tiny_model import WIDTH

RANDOM = {"style": "random"}
PLAIN = {"style": "random", "chatTemplate": None}
TOLERANCE = 0.1  # as for the modes


def placesOf(model, input):
    """What the model takes an input for, the rows of embeddings as arrays."""
    Run(model, input, greedy(max_new_tokens=1, keep_history=0))
    places = model._sequences[0].places[:-1]
    return [place if isinstance(place, int) else np.frombuffer(place, np.float32) for place in places]


class TestImages:
    def test_stand_where_their_markers_are(self, load):
        model = load(PLAIN)
        rows = someRows(5)
        places = placesOf(
            model, imageInput("a<image>bc<image>d", image_embed=numbers(rows[:4]), n_image_tokens=2, n_image=2)
        )
        a, b, c, d = ([5 + ord(letter)] for letter in "abcd")
        expected = [*a, rows[0], rows[1], *b, *c, rows[2], rows[3], *d]
        assert len(places) == len(expected)
        assert all(np.array_equal(place, want) for place, want in zip(places, expected, strict=True))

    def test_nested_and_flat_are_the_same(self, load):
        model = load(RANDOM)
        fields = {"image_embed": numbers(someRows(6)), "n_image_tokens": 3, "n_image": 2}
        prompt = "First <image> then <image>."
        flat, nested = imageInput(prompt, **fields), imageInput(prompt, image=RKLLMImage(**fields))
        flat, nested = (Run(model, given, logitsOf(max_new_tokens=5)) for given in (flat, nested))
        assert flat.tokens == nested.tokens
        assert np.array_equal(logitRows(flat.results[0]), logitRows(nested.results[0]))

    def test_are_computed_as_llama_cpp_computes_them(self, load, direct, embeddings):
        model = load(RANDOM)
        rows = someRows(100)
        given = imageInput("See <image> and <image>!", image_embed=numbers(rows), n_image_tokens=50, n_image=2)
        run = Run(model, given, logitsOf(max_new_tokens=1))
        places = [place if isinstance(place, np.ndarray) else embeddings[place] for place in placesOf(model, given)]
        expected = direct.logits(np.stack(places))
        assert np.allclose(logitRows(run.results[0]), expected, rtol=0, atol=TOLERANCE)
        assert run.perf.prefill_tokens == len(places) > 100

    def test_without_a_count_are_one(self, load):
        model = load(PLAIN)
        assert len(placesOf(model, imageInput("a<image>", image_embed=[0.0] * WIDTH * 3, n_image_tokens=3))) == 4

    def test_may_be_none(self, load):
        model = load(PLAIN)
        for given in (imageInput("abc"), imageInput("abc", image=RKLLMImage())):
            assert placesOf(model, given) == [5 + ord(letter) for letter in "abc"]

    def test_have_the_tags_of_init_or_their_own(self, load):
        model = load(PLAIN, img_start="[", img_end="]]")
        fields = {"image_embed": [1.0] * WIDTH * 2, "n_image_tokens": 1, "n_image": 2}

        def text(input):
            return "".join("#" if isinstance(place, np.ndarray) else chr(place - 5) for place in placesOf(model, input))

        assert text(imageInput("a<image>b<image>", **fields)) == "a[#]]b[#]]"
        own = RKLLMImage(**fields, image_start="(", image_end=")", image_content="x")
        assert text(imageInput("a<image>b<image>", image=own)) == "a(#)b(#)"
        assert text(imageInput("a<image>b<image>", image=RKLLMImage(**fields))) == "a#b#"

    def test_special_tokens_of_tags_are_tokens(self, load):
        image = RKLLMImage(image_embed=[1.0] * WIDTH, n_image_tokens=1, n_image=1, image_start="<|im_start|>")
        assert placesOf(load(PLAIN), imageInput("<image>a", image=image))[0] == 1

    def test_are_in_the_turn_that_the_template_writes(self, load):
        model = load(RANDOM)
        given = imageInput("a<image>b", image_embed=[1.0] * WIDTH, n_image_tokens=1, n_image=1)
        parts = "<|im_start|>user\na", "b<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
        before, behind = (model._loaded.vocabulary.tokenize(part, 2048) for part in parts)
        places = placesOf(model, given)
        assert (places[: len(before)], places[len(before) + 1 :]) == (before, behind)

    def test_come_behind_the_begin_token(self, load):
        model = load({**PLAIN, "addBegin": True})
        places = placesOf(model, imageInput("<image>ab", image_embed=[1.0] * WIDTH, n_image_tokens=1, n_image=1))
        assert [place for place in places if isinstance(place, int)] == [1, 5 + ord("a"), 5 + ord("b")]
        assert places[0] == 1

    @pytest.mark.parametrize("markers", [0, 1, 3])
    def test_with_other_markers_than_images(self, recorded, markers):
        model, c = recorded()
        fields = {"image_embed": [0.0] * WIDTH * 2, "n_image_tokens": 1, "n_image": 2}
        for given in (fields, {"image": RKLLMImage(**fields)}):
            with pytest.raises(InvalidParams) as caught:
                Run(model, imageInput("x" + "<image>" * markers, **given))
            assert caught.value.detail == (
                "$.rkllm_input.multimodal_input.prompt: expected <image> 2 times in what the chat template makes of it"
            )
        assert not c.count("llama_decode")

    def test_with_markers_in_the_system_prompt(self, load):
        """Only the prompt has images: what the system prompt says there is text."""
        model = load(RANDOM)
        model.setChatTemplate("Look at <image>: ", "", "")
        given = imageInput("a<image>", image_embed=[1.0] * WIDTH, n_image_tokens=1, n_image=1)
        places = placesOf(model, given)
        assert [isinstance(place, np.ndarray) for place in places] == [False] * (len(places) - 1) + [True]
        text = "".join(model._loaded.vocabulary.text(place) for place in places[:-1])
        assert text == "Look at <image>: a"

    def test_marker_of_our_own_in_a_prompt_is_no_image(self, load):
        """What stands for an image while a template is written must not come from a client."""
        fields = {"image_embed": [1.0] * WIDTH, "n_image_tokens": 1, "n_image": 1}
        with pytest.raises(InvalidParams, match="expected <image> 1 times"):
            Run(load(PLAIN), imageInput(f"a{IMAGE}<image>", **fields))

    def test_of_wrong_sizes(self, recorded):
        model, c = recorded()
        for nested in (False, True):
            block = "$.rkllm_input.multimodal_input" + (".image" if nested else "")

            def refused(nested=nested, **fields):
                given = {"image": RKLLMImage(**fields)} if nested else fields
                with pytest.raises(InvalidParams) as caught:
                    Run(model, imageInput("<image>", **given))
                return caught.value.detail

            for length, images, tokens, expected in (
                (3 * WIDTH, 1, 2, 2 * WIDTH),
                (2 * WIDTH, 0, 3, 3 * WIDTH),
                (WIDTH + 1, 1, 1, WIDTH),
                (0, 1, 1, WIDTH),
                (WIDTH, 2**31 - 1, 2**31 - 1, (2**31 - 1) ** 2 * WIDTH),
            ):
                assert refused(image_embed=[0.0] * length, n_image=images, n_image_tokens=tokens) == (
                    f"{block}.image_embed: expected n_image × n_image_tokens × {WIDTH}, the model's embedding size, "
                    f"which is {expected} numbers, got {length}"
                )
            for length, images in ((0, 1), (WIDTH, 1), (WIDTH, 0), (0, 2**31 - 1)):
                assert refused(image_embed=[0.0] * length, n_image=images) == (
                    f"{block}.n_image_tokens: expected 1 or more, as there is an image, got 0"
                )
            wrong = [0.0] * (WIDTH - 1) + [math.nan]
            assert refused(image_embed=wrong, n_image=1, n_image_tokens=1).startswith(
                f"{block}.image_embed[{WIDTH - 1}]: expected a number that a float of C can hold, got nan"
            )
        assert not c.calls

    def test_in_a_history(self, load, direct, embeddings):
        model = load(RANDOM)
        Run(model, "hello", greedy(max_new_tokens=3, keep_history=1))
        fields = {"image_embed": numbers(someRows(70)), "n_image_tokens": 70, "n_image": 1}
        run = Run(model, imageInput("see <image>", **fields), logitsOf(max_new_tokens=1, keep_history=1))
        places = model._sequences[0].places[:-1]
        rows = [embeddings[place] if isinstance(place, int) else np.frombuffer(place, np.float32) for place in places]
        expected = direct.logits(np.stack(rows))[-run.results[0].logits.num_tokens :]
        assert np.allclose(logitRows(run.results[0]), expected, rtol=0, atol=TOLERANCE)

    def test_are_reused_as_a_prefix(self, load):
        """Also where text and image meet inside of a block."""
        fields = {"image_embed": numbers(someRows(150)), "n_image_tokens": 150, "n_image": 1}
        model, prefilled = load(RANDOM), []
        for question in ("What is it?", "Who?", "What is it?"):
            given = imageInput(f"see <image> {question}", **fields)
            run, alone = Run(model, given, greedy(max_new_tokens=5)), Run(load(RANDOM), given, greedy(max_new_tokens=5))
            assert run.tokens == alone.tokens
            prefilled.append(alone.perf.prefill_tokens - run.perf.prefill_tokens)
        assert prefilled == [0, 2 * BLOCK, 2 * BLOCK]

    @pytest.mark.parametrize("kind", ["video", "audio"])
    def test_are_all_there_is(self, recorded, kind):
        model, c = recorded()
        given = {"video": RKLLMVideo(n_video=1), "audio": RKLLMAudio(n_audio=1)}
        with pytest.raises(NotSupported) as caught:
            Run(model, imageInput("<image>", **{kind: given[kind]}))
        assert caught.value.data == {"needs": f"multimodal_input.{kind}"}
        assert not c.calls

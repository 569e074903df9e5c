"""What a run is given: every kind of input, as C gets it, and what is refused before C sees it."""

import pytest
from msgspec import structs

from rkllm_twisted.backends.rkllm.families import FAMILIES
from rkllm_twisted.backends.rkllm.writing import LARGEST_INPUT, Writer
from rkllm_twisted.errors import InvalidParams, NotSupported, PromptTooLong
from rkllm_twisted.values import (
    InputType,
    RKLLMAudio,
    RKLLMEmbedInput,
    RKLLMImage,
    RKLLMInput,
    RKLLMLoraParam,
    RKLLMMultiModalInput,
    RKLLMPromptCacheParam,
    RKLLMTokenInput,
    RKLLMVideo,
)
from tests.backends.rkllm.running import Run, ids, prompt
from tests.standins import everyFamily, needsCompiler

pytestmark = needsCompiler

FLAT, BLOCKS = ("1.1", "1.2.0", "1.2.1b1", "1.2.1"), ("1.3", "1.3.1")
COUNTED = ("1.2.1b1", "1.2.1")
BEFORE_1_2_1 = ("1.1", "1.2.0", "1.2.1b1")


def embedded(*rows, **fields):
    numbers = [number for row in rows for number in row]
    given = {"embed": numbers, "n_tokens": len(rows), **fields}
    return RKLLMInput(input_type=InputType.RKLLM_INPUT_EMBED, embed_input=RKLLMEmbedInput(**given))


def pictured(**fields):
    given = {"prompt": "see <image> here", **fields}
    return RKLLMInput(input_type=InputType.RKLLM_INPUT_MULTIMODAL, multimodal_input=RKLLMMultiModalInput(**given))


def flat(**fields):
    return pictured(**{"image_embed": [0.5, 1.5, 2.5, 3.5], "n_image_tokens": 2, **fields})


def inBlock(**fields):
    image = {
        "image_embed": [0.5, 1.5, 2.5, 3.5],
        "n_image_tokens": 2,
        "n_image": 1,
        "image_start": "<",
        "image_end": ">",
    }
    return pictured(image=RKLLMImage(**{**image, **fields}))


# Every kind, as it arrives


@everyFamily
def test_text(key, load, library):
    fields = {} if key in BEFORE_1_2_1 else {"role": "tool", "enable_thinking": True}
    text = '{"Grüße": "😀"}'
    assert Run(load(key), prompt(text, **fields)).text == text
    said = library.events("run")[0]["input"]
    assert said == ("type=0" if key in BEFORE_1_2_1 else "type=0 role=tool thinking=1")


@everyFamily
def test_tokens(key, load, library):
    run = Run(load(key), ids(31, 32, 33))
    assert run.text == " 31 32 33"
    assert [result.token_id for result in run.results[:3]] == [31, 32, 33]
    assert library.events("prefill")[0]["tokens"] == 3


@everyFamily
def test_embeddings(key, load):
    assert Run(load(key, "embd=2"), embedded([0.5, 1.0], [-2.25, 1.0])).text == " 0.5 -2.25"


@pytest.mark.parametrize("key", FLAT)
def test_image_until_1_2(key, load, library):
    sizes = {"n_image": 1, "image_width": 8, "image_height": 4} if key in COUNTED else {}
    Run(load(key, "embd=2", img_start="(", img_end=")", img_content="+"), flat(**sizes))
    assert "img_start=( img_end=) img_content=+" in library.events("init")[0]["param"]
    counts = " n_image=1 image_width=8 image_height=4" if key in COUNTED else ""
    assert library.events("run")[0]["media"] == "n_image_tokens=2" + counts


@pytest.mark.parametrize("key", COUNTED)
def test_one_image_need_not_be_counted(key, load, library):
    """The newer releases take no 0 for one."""
    Run(load(key, "embd=2"), flat())
    assert " n_image=1 " in library.events("run")[0]["media"]


@pytest.mark.parametrize("key", ["1.1", "1.2.0"])
def test_releases_without_a_count_have_one_image(key, load):
    model = load(key, "embd=2")
    assert Run(model, flat(n_image=1)).results
    with pytest.raises(NotSupported, match=r"multimodal_input\.n_image: .*runtime 1\.2\.1b1 to 1\.2\.3 has"):
        Run(model, flat(n_image=2, n_image_tokens=1, prompt="<image><image>"))


@pytest.mark.parametrize("key", BLOCKS)
def test_blocks_from_1_3(key, load, library):
    image = RKLLMImage(
        image_embed=[0.5, 1.5, 2.5, 3.5],
        n_image_tokens=1,
        n_image=2,
        image_start="<i>",
        image_end="</i>",
        image_content="+",
        image_width=3,
        image_height=5,
    )
    video = RKLLMVideo(
        video_embed=[float(number) for number in range(12)],
        n_frame_tokens=2,
        n_frame_per_video=3,
        n_video=1,
        video_start="<v>",
        video_end="</v>",
        video_content="-",
        frame_width=7,
        frame_height=9,
    )
    audio = RKLLMAudio(audio_embed=[0.5, 1.5], n_audio_tokens=1, n_audio=1, audio_start="<a>", audio_end="</a>")
    given = {"prompt": "<image> <image> <video>", "image": image, "video": video}
    if key == "1.3.1":
        given |= {"audio": audio, "prompt": "<image> <image> <video> <audio>"}
    Run(load(key, "embd=2"), pictured(**given))
    media = library.events("run")[0]["media"]
    assert media.startswith(
        "n_image=2 n_image_tokens=1 image_width=3 image_height=5 n_video=1 n_frame_per_video=3 n_frame_tokens=2 "
        "frame_width=7 frame_height=9 image_start=<i> image_end=</i> image_content=+ "
        "video_start=<v> video_end=</v> video_content=-"
    )
    assert media.endswith("n_audio=1 n_audio_tokens=1 audio_start=<a> audio_end=</a> audio_content=") == (
        key == "1.3.1"
    )


@everyFamily
def test_inputs_in_memory(key):
    """One after the other with the stride of the family, and zeros as far as the largest input of any reaches."""
    family = FAMILIES[key]
    ffi, stride = family.ffi, family.ffi.sizeof("RKLLMInput")
    writer = Writer(ffi)
    first = writer.inputs([ids(1, 2), ids(3)])
    if family.hasField("RKLLMInput", "role"):
        assert ffi.string(first[1].role) == b"user"
    assert [first[index].token_input.n_tokens for index in range(2)] == [2, 1]
    assert first[1].token_input.input_ids[0] == 3
    assert ffi.sizeof(writer._owned[0]) >= stride + LARGEST_INPUT
    union = ffi.offsetof("RKLLMInput", "token_input") + ffi.sizeof("RKLLMTokenInput")
    room = bytes(ffi.buffer(ffi.cast("char *", first), stride + LARGEST_INPUT))
    assert set(room[stride + union :]) == {0}
    assert set(room[union:stride]) <= {0}


def test_largest_input_is_that_of_the_newest_family():
    assert max(family.ffi.sizeof("RKLLMInput") for family in FAMILIES.values()) == LARGEST_INPUT


@everyFamily
def test_member_that_does_not_count_is_not_written(key, load):
    """In C they share their place."""
    input = structs.replace(prompt("one two"), token_input=RKLLMTokenInput(input_ids=[7], n_tokens=1))
    assert Run(load(key), input).text == "one two"


@everyFamily
def test_saved_prompt_cache(key, load, tmp_path):
    path = tmp_path / "saved"
    model = load(key)
    Run(model, prompt_cache_params=RKLLMPromptCacheParam(save_prompt_cache=0, prompt_cache_path=str(path)))
    assert not path.exists()
    Run(model, prompt_cache_params=RKLLMPromptCacheParam(save_prompt_cache=1, prompt_cache_path=str(path)))
    assert path.exists()


# What a family lacks


def lacking(field, input, *keys, needs):
    return [pytest.param(key, input, field, needs, id=f"{field}-{key}") for key in keys]


@pytest.mark.parametrize(
    ("key", "input", "field", "needs"),
    [
        *lacking("enable_thinking", prompt("x", enable_thinking=True), *BEFORE_1_2_1, needs="runtime 1.2.1 or newer"),
        *lacking("role", prompt("x", role="tool"), *BEFORE_1_2_1, needs="runtime 1.2.1 or newer"),
        *lacking("multimodal_input.image", inBlock(), *FLAT, needs="runtime 1.3.0 or newer"),
        *lacking("multimodal_input.image_embed", flat(), *BLOCKS, needs="runtime 1.1.0 to 1.2.3"),
        *lacking("multimodal_input.image_width", flat(image_width=8), "1.1", "1.2.0", needs="runtime 1.2.1b1 to 1.2.3"),
        *lacking(
            "multimodal_input.audio",
            pictured(prompt="x", audio=RKLLMAudio(audio_embed=[1.0], n_audio_tokens=1, n_audio=1)),
            *FLAT,
            "1.3",
            needs="runtime 1.3.1 or newer",
        ),
    ],
)
def test_field_that_a_family_lacks(key, input, field, needs, load, library):
    with pytest.raises(NotSupported, match=rf"\$\.rkllm_input\.{field}: ") as refused:
        Run(load(key, "embd=2"), input)
    assert refused.value.data == {"needs": needs}
    assert "rkllm_run" not in library.calls()


@everyFamily
def test_neutral_values_are_no_fields(key, load):
    """Null and the default are what a client sends that names every field."""
    input = structs.replace(prompt("one"), role="user", enable_thinking=False)
    model = load(key)
    assert Run(model, input, sampling_params=None, keep_history=0, max_new_tokens=0).text == "one"
    media = {"image_embed": [], "n_image": 0, "image": None, "video": None, "audio": None}
    assert Run(model, pictured(prompt="one", **media)).text == "one"


# What C must not see


@pytest.mark.parametrize(
    ("input", "said"),
    [
        (RKLLMInput(prompt_input=None), "prompt_input: missing, input_type 0 needs it"),
        (RKLLMInput(input_type=InputType.RKLLM_INPUT_TOKEN), "token_input: missing, input_type 1"),
        (prompt("a\0b"), "prompt_input: expected string without NUL"),
        (prompt("a", role="system"), 'role: expected "user" or "tool", got \'system\''),
        (
            structs.replace(ids(1, 2), token_input=RKLLMTokenInput(input_ids=[1, 2], n_tokens=3)),
            "token_input.input_ids: expected as many numbers as n_tokens says, 3, got 2",
        ),
        (ids(-1), r"token_input.input_ids\[0\]: expected"),
        (ids(2**31), r"token_input.input_ids\[0\]: expected"),
        (embedded([1.0], [2.0], n_tokens=3), "embed_input.embed: expected a length that is a multiple of n_tokens, 3"),
        (embedded(n_tokens=1), "embed_input.embed: expected a length that is a multiple"),
        (embedded([1.0, float("nan")]), r"embed_input.embed\[1\]: expected"),
        (embedded([1e39]), r"embed_input.embed\[0\]: expected"),
        (inBlock(n_image=2), "prompt: expected <image> 2 times, as n_image, got it 1 times"),
        (
            inBlock(n_image_tokens=3),
            "image.image_embed: expected a length that is a multiple of n_image × n_image_tokens, 3",
        ),
        (inBlock(n_image_tokens=0), "image.n_image_tokens: expected 1 or more"),
        (inBlock(image_embed=[]), "image.image_embed: expected a length that is a multiple"),
        (pictured(prompt="<image>"), "prompt: expected <image> 0 times, as n_image, got it 1 times"),
        (pictured(prompt="<video>"), "prompt: expected <video> 0 times"),
        (
            pictured(
                prompt="<video>",
                video=RKLLMVideo(video_embed=[1.0] * 3, n_video=1, n_frame_tokens=2, n_frame_per_video=1),
            ),
            "video.video_embed: expected a length that is a multiple of n_video × n_frame_per_video × n_frame_tokens",
        ),
        (
            pictured(prompt="x", audio=RKLLMAudio(audio_embed=[1.0] * 3, n_audio=1, n_audio_tokens=2)),
            "audio.audio_embed: expected a length that is a multiple of n_audio × n_audio_tokens, 2",
        ),
    ],
)
def test_input_that_is_refused(input, said, load, library):
    """A wrong length is a segmentation fault in the library (issues 336, 341, 358, 359)."""
    with pytest.raises(InvalidParams, match=rf"^invalid params: \$\.rkllm_input\.(multimodal_input\.)?{said}"):
        Run(load("1.3.1", "embd=1"), input)
    assert "rkllm_run" not in library.calls()


@pytest.mark.parametrize(
    ("key", "input"),
    [
        ("1.1", pictured(image_embed=[0.5] * 32, n_image_tokens=32)),
        ("1.2.1", pictured(image_embed=[0.5] * 32, n_image_tokens=32)),
        ("1.2.1", pictured(prompt="<image><image>", image_embed=[0.5] * 32, n_image_tokens=16, n_image=2)),
        ("1.3", inBlock(image_embed=[0.5] * 32, n_image_tokens=32)),
        (
            "1.3",
            pictured(
                prompt="<video>",
                video=RKLLMVideo(video_embed=[0.5] * 32, n_video=1, n_frame_per_video=4, n_frame_tokens=8),
            ),
        ),
        (
            "1.3.1",
            pictured(prompt="<audio>", audio=RKLLMAudio(audio_embed=[0.5] * 32, n_audio=1, n_audio_tokens=32)),
        ),
    ],
)
def test_media_that_fill_the_context(key, input, load, library):
    """Their tokens are known, whatever the text has: the library would return -1 and nothing else."""
    with pytest.raises(PromptTooLong) as refused:
        Run(load(key, "embd=1", max_context_len=32), input)
    assert refused.value.data == {"tokens": 32, "limit": 32}
    assert "rkllm_run" not in library.calls()


def test_media_leave_less_room_for_the_answer(load, library):
    """Of both blocks; behind the end of the context the library would go on for ever."""
    library.script("endless=1")
    image = RKLLMImage(image_embed=[0.5] * 2, n_image=1, n_image_tokens=2)
    video = RKLLMVideo(video_embed=[0.5] * 12, n_video=1, n_frame_per_video=3, n_frame_tokens=4)
    run = Run(load("1.3", "embd=1", max_context_len=32), pictured(prompt="<image> <video>", image=image, video=video))
    assert len(run.results) == 32 - 2 - 12
    assert run.reason == "length"


@pytest.mark.parametrize("length", [1, 3])
def test_flat_image_of_a_wrong_size(length, load):
    with pytest.raises(
        InvalidParams, match=r"image_embed: expected a length that is a multiple of n_image × n_image_tokens, 2"
    ):
        Run(load("1.2.1", "embd=1"), flat(image_embed=[1.0] * length))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"lora_params": RKLLMLoraParam(lora_adapter_name="nobody")},
            "lora_params.lora_adapter_name: no adapter nobody",
        ),
        (
            {"prompt_cache_params": RKLLMPromptCacheParam(save_prompt_cache=1)},
            "prompt_cache_params.prompt_cache_path: expected a path",
        ),
        ({"max_new_tokens": 2**31}, "max_new_tokens: expected"),
        (
            {"prompt_cache_params": RKLLMPromptCacheParam(save_prompt_cache=1, prompt_cache_path="a\0b")},
            "prompt_cache_params.prompt_cache_path: expected string without NUL",
        ),
    ],
)
@everyFamily
def test_infer_param_that_is_refused(key, fields, said, load, library):
    with pytest.raises(InvalidParams, match=rf"\$\.rkllm_infer_params\.{said}"):
        Run(load(key), **fields)
    assert "rkllm_run" not in library.calls()

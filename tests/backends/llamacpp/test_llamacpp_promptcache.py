"""Prompt caches: saved by a run, loaded for others, and never trusted unread."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path

import msgspec
import pytest

from rkllm_twisted.backends.llamacpp import promptcache
from rkllm_twisted.backends.llamacpp.promptcache import DIGEST, MAGIC, BadCache, fingerprint
from rkllm_twisted.errors import RuntimeCallFailed
from rkllm_twisted.values import (
    InferMode,
    InputType,
    RKLLMEmbedInput,
    RKLLMExtendParam,
    RKLLMInput,
    RKLLMLoraAdapter,
    RKLLMLoraParam,
    RKLLMPromptCacheParam,
    RKLLMTokenInput,
)
from tests.backends.llamacpp.running import WHOLE, Run, greedy
from tests.tiny_model import WIDTH, writeAdapter

RANDOM = {"style": "random"}
LENGTH = 150
PROMPT = [5 + place * 7 % 250 for place in range(LENGTH)]


def tokens(ids):
    return RKLLMInput(
        input_type=InputType.RKLLM_INPUT_TOKEN, token_input=RKLLMTokenInput(input_ids=ids, n_tokens=len(ids))
    )


def saving(path, **fields):
    """Parameters of a run that saves its prompt's cache."""
    param = RKLLMPromptCacheParam(save_prompt_cache=1, prompt_cache_path=str(path))
    return greedy(max_new_tokens=4, prompt_cache_params=param, **fields)


def prefilled(model, prompt=PROMPT, **fields):
    """How many places a run computes of its prompt."""
    return Run(model, tokens(prompt), greedy(max_new_tokens=1, **fields)).perf.prefill_tokens


def cut(model):
    """Make a model forget what it has computed."""
    model.clearKVCache(False, None)
    return model


@pytest.fixture
def path(tmp_path):
    return tmp_path / "prompt.cache"


@pytest.fixture
def saved(load, path):
    """A cache of `PROMPT`."""
    Run(load(RANDOM), tokens(PROMPT), saving(path))
    return path


@pytest.fixture
def refused(load):
    """A function that gives the reason for which a file is refused."""
    model = load(RANDOM)

    def refused(path):
        with pytest.raises(RuntimeCallFailed) as caught:
            model.loadPromptCache(str(path))
        assert caught.value.data == {"function": "rkllm_load_prompt_cache", "status": -1}
        assert str(path) not in caught.value.detail
        assert prefilled(cut(model)) == LENGTH
        return caught.value.detail

    return refused


class TestLoading:
    def test_saves_the_computation_of_its_prompt(self, load, saved):
        model = load(RANDOM)
        model.loadPromptCache(str(saved))
        answer = Run(model, tokens(PROMPT), greedy(max_new_tokens=20))
        assert answer.perf.prefill_tokens == 1
        assert answer.tokens == Run(load(RANDOM), tokens(PROMPT), greedy(max_new_tokens=20)).tokens
        assert model.getKVCacheSize() == [LENGTH + 19] == [model._context.count(0)]

    @pytest.mark.parametrize(
        ("prompt", "computed"),
        [
            ([*PROMPT, 9, 9, 9], 3),
            ([*PROMPT[:101], 9, 9], 2),
            (PROMPT[:70], 1),
            ([9, *PROMPT], LENGTH + 1),
            (PROMPT[:1], 1),
        ],
    )
    def test_serves_prompts_that_begin_alike_to_the_place(self, load, saved, prompt, computed):
        model = load(RANDOM)
        model.loadPromptCache(str(saved))
        answer = Run(model, tokens(prompt), greedy(max_new_tokens=10))
        assert answer.perf.prefill_tokens == computed
        assert answer.tokens == Run(load(RANDOM), tokens(prompt), greedy(max_new_tokens=10)).tokens
        assert model.getKVCacheSize() == [len(prompt) + 9] == [model._context.count(0)]

    def test_computes_fewer_places_than_the_last_prompt_would(self, load, saved):
        model = load(RANDOM)
        model.loadPromptCache(str(saved))
        prefilled(model, [*PROMPT[:100], 9])
        assert prefilled(model, [*PROMPT[:101], 8, 8]) == 2

    def test_leaves_a_longer_computation_alone(self, load, saved):
        model = load(RANDOM)
        longer = [*PROMPT, *range(5, 100)]
        prefilled(model, longer)
        model.loadPromptCache(str(saved))
        assert prefilled(model, longer) == len(longer) % 64

    def test_gives_no_rows(self, load, saved):
        model = load(RANDOM)
        model.loadPromptCache(str(saved))
        assert prefilled(model, mode=InferMode.RKLLM_INFER_GET_LOGITS) == LENGTH

    def test_that_was_computed_otherwise_is_gone_when_it_is_released(self, load, path):
        """A history is computed one token after the other; without it a prompt is computed in blocks, to the bit."""
        model = load(RANDOM)
        answer = Run(model, tokens(PROMPT[:10]), greedy(max_new_tokens=80, keep_history=1)).tokens[:80]
        Run(model, tokens([9, 9]), saving(path, keep_history=1))
        places = [*PROMPT[:10], *answer, 9, 9]
        model = load(RANDOM)
        assert prefilled(model, [*places[:70], 3]) == 71
        model.loadPromptCache(str(path))
        assert prefilled(model, [*places, 7]) == 1
        model.releasePromptCache()
        assert prefilled(model, [*places, 7]) == len(places) + 1

    def test_counts_until_it_is_released(self, load, saved):
        model = load(RANDOM)
        model.loadPromptCache(str(saved))
        assert [prefilled(cut(model)) for _ in range(2)] == [1, 1]
        model.releasePromptCache()
        assert prefilled(cut(model)) == LENGTH
        model.releasePromptCache()

    def test_takes_the_place_of_another(self, load, saved, path):
        other = path.with_name("other")
        Run(load(RANDOM), tokens(PROMPT[5:]), saving(other))
        model = load(RANDOM)
        model.loadPromptCache(str(other))
        model.loadPromptCache(str(saved))
        assert prefilled(cut(model)) == 1
        assert prefilled(cut(model), PROMPT[5:]) == LENGTH - 5

    def test_that_fails_leaves_the_one_before_it(self, load, saved, tmp_path):
        model = load(RANDOM)
        model.loadPromptCache(str(saved))
        with pytest.raises(RuntimeCallFailed, match="no such file or directory"):
            model.loadPromptCache(str(tmp_path / "none"))
        assert prefilled(model) == 1

    def test_does_not_disturb_a_history(self, load, saved):
        model = load(RANDOM)
        Run(model, tokens(PROMPT[:50]), greedy(max_new_tokens=3, keep_history=1))
        model.loadPromptCache(str(saved))
        run = Run(model, tokens([9, 9]), greedy(max_new_tokens=3, keep_history=1))
        assert run.perf.prefill_tokens == 3
        assert model.getKVCacheSize() == [50 + 3 + 2 + 2] == [model._context.count(0)]

    def test_serves_the_first_turn_of_a_history(self, load, saved):
        model = load(RANDOM)
        model.loadPromptCache(str(saved))
        assert prefilled(model, keep_history=1) == 1

    def test_serves_several_inputs(self, load, saved):
        model = load(RANDOM, extend_param=RKLLMExtendParam(n_batch=2))
        model.loadPromptCache(str(saved))
        said = {0: [], 1: []}
        model.prepare()
        model.runBatch(
            [tokens(PROMPT), tokens([9, 9])],
            greedy(max_new_tokens=8),
            lambda result, state: said[result.batch_index or 0].append(result.token_id),
            WHOLE,
        )
        alone = [Run(load(RANDOM), tokens(ids), greedy(max_new_tokens=8)).tokens[:8] for ids in (PROMPT, [9, 9])]
        assert [said[0][:8], said[1][:8]] == alone

    def test_of_rows_of_embeddings(self, load, path):
        rows = RKLLMInput(
            input_type=InputType.RKLLM_INPUT_EMBED,
            embed_input=RKLLMEmbedInput(embed=[n % 13 / 7 - 1 for n in range(70 * WIDTH)], n_tokens=70),
        )
        answer = Run(load(RANDOM), rows, saving(path)).tokens
        model = load(RANDOM)
        model.loadPromptCache(str(path))
        run = Run(model, rows, greedy(max_new_tokens=4))
        assert (run.tokens, run.perf.prefill_tokens) == (answer, 1)

    def test_state_that_llama_cpp_refuses_costs_time_only(self, load, saved):
        model = load(RANDOM)
        model.loadPromptCache(str(saved))
        baseline = Run(load(RANDOM), tokens(PROMPT), greedy(max_new_tokens=8)).tokens
        model._cache = msgspec.structs.replace(model._cache, state=model._cache.state[:-1000])
        run = Run(model, tokens(PROMPT), greedy(max_new_tokens=8))
        assert (run.perf.prefill_tokens, run.tokens) == (LENGTH, baseline)


class TestAdapters:
    """What was computed with one adapter is of no use to another, nor to the base model."""

    @pytest.fixture
    def adapted(self, load, tmp_path):
        adapter = str(writeAdapter(tmp_path / "lora.gguf"))
        model = load(RANDOM)
        for name, scale in (("one", 1.0), ("same", 1.0), ("half", 0.5)):
            model.loadLora(RKLLMLoraAdapter(lora_adapter_path=adapter, lora_adapter_name=name, scale=scale))
        return model

    def test_cache_of_the_base_model(self, adapted, saved):
        adapted.loadPromptCache(str(saved))
        assert prefilled(adapted, lora_params=RKLLMLoraParam(lora_adapter_name="one")) == LENGTH
        assert prefilled(adapted) == 1

    def test_cache_of_an_adapter(self, adapted, path):
        Run(adapted, tokens(PROMPT), saving(path, lora_params=RKLLMLoraParam(lora_adapter_name="one")))
        adapted.loadPromptCache(str(path))
        counts = [
            prefilled(cut(adapted), lora_params=name and RKLLMLoraParam(lora_adapter_name=name))
            for name in ("one", "same", "half", None)
        ]
        assert counts == [1, 1, LENGTH, LENGTH]


class TestBadFiles:
    def test_missing(self, refused, tmp_path):
        assert refused(tmp_path / "none") == "no such file or directory"

    def test_directory(self, refused, tmp_path):
        before = len(os.listdir("/proc/self/fd"))
        assert refused(tmp_path) == "is a directory"
        assert len(os.listdir("/proc/self/fd")) == before

    def test_named_pipe_does_not_block(self, refused, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        assert refused(tmp_path / "pipe") == "not a regular file"

    def test_device(self, refused):
        assert refused(Path("/dev/zero")) == "not a regular file"

    @pytest.mark.parametrize("data", [b"", b"RKCACHE", b"RKCACHE0" + bytes(99), b"GGUF" + bytes(99)])
    def test_something_else(self, refused, path, data):
        path.write_bytes(data)
        assert refused(path) == "not a prompt cache, or one of another release"

    def test_model(self, refused, models):
        assert refused(models(**RANDOM)) == "not a prompt cache, or one of another release"

    def test_cut_off(self, refused, saved):
        data = saved.read_bytes()
        described = len(MAGIC) + DIGEST
        for length in (8, 9, described - 1, described, described + 5, described + 8, 1000, len(data) - 1):
            saved.write_bytes(data[:length])
            assert refused(saved) == "damaged: its contents are not what was written"
        saved.write_bytes(data + b"\0")
        assert refused(saved) == "damaged: its contents are not what was written"

    def test_flipped_bits(self, saved):
        """Wherever it is, none goes unnoticed."""
        data = saved.read_bytes()
        for place in [*range(120), *range(120, len(data), len(data) // 50), len(data) - 1]:
            saved.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
            with pytest.raises(BadCache, match="not a prompt cache" if place < len(MAGIC) else "damaged"):
                promptcache.load(str(saved), "any", 1000)

    @pytest.mark.parametrize("body", [b"", b"\1", bytes(8), b"\3" + bytes(7) + b"abc", b"\xff" * 30])
    def test_whole_but_no_description(self, refused, path, body):
        path.write_bytes(MAGIC + hashlib.sha256(body).digest() + body)
        assert refused(path) == "not a prompt cache, though it begins like one"

    def test_of_another_model(self, refused, load, path):
        Run(load({"style": "random", "seed": 1}), tokens(PROMPT), saving(path))
        assert refused(path) == "of another model, or of another release of llama.cpp"

    def test_of_the_same_model_elsewhere(self, load, models, saved, tmp_path):
        copy = tmp_path / "copy.gguf"
        copy.write_bytes(models(**RANDOM).read_bytes())
        model = load(copy)
        model.loadPromptCache(str(saved))
        assert prefilled(model) == 1

    def test_too_long(self, load, saved):
        with pytest.raises(RuntimeCallFailed, match="of 150 tokens, the context holds 150 and needs room for one more"):
            load(RANDOM, max_context_len=150).loadPromptCache(str(saved))
        model = load(RANDOM, max_context_len=151)
        model.loadPromptCache(str(saved))
        assert prefilled(model) == 1


class TestFingerprint:
    def test_is_of_the_release(self, models):
        path = str(models(**RANDOM))
        assert fingerprint(path, "1") == fingerprint(path, "1") != fingerprint(path, "2")

    @pytest.mark.parametrize("place", [0, 100_000, -1])
    def test_is_of_the_weights(self, models, tmp_path, place):
        data = bytearray(models(**RANDOM).read_bytes())
        data[place] ^= 1
        (tmp_path / "other.gguf").write_bytes(data)
        assert fingerprint(str(tmp_path / "other.gguf"), "1") != fingerprint(str(models(**RANDOM)), "1")

    def test_is_of_the_length(self, tmp_path):
        prints = set()
        for size in (1 << 30, (1 << 30) + 1):
            with open(tmp_path / "zeros", "wb") as file:
                file.truncate(size)
            prints.add(fingerprint(str(tmp_path / "zeros"), "1"))
        assert len(prints) == 2

    def test_of_a_large_file_reads_little_of_it(self, tmp_path):
        with open(tmp_path / "large", "wb") as file:
            file.truncate(1 << 40)
        assert fingerprint(str(tmp_path / "large"), "1")


class TestSaving:
    def test_is_whole_and_of_its_owner_only(self, saved, tmp_path):
        assert stat.S_IMODE(saved.stat().st_mode) == 0o600
        assert os.listdir(tmp_path) == [saved.name]

    def test_default_path(self, load, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Run(load(RANDOM), tokens(PROMPT), saving(""))
        assert os.listdir() == ["prompt_cache.bin"]

    def test_only_if_asked(self, load, path):
        param = RKLLMPromptCacheParam(save_prompt_cache=0, prompt_cache_path=str(path))
        Run(load(RANDOM), tokens(PROMPT), greedy(max_new_tokens=1, prompt_cache_params=param))
        assert not path.exists()

    def test_replaces_an_older_one(self, load, saved):
        Run(load(RANDOM), tokens(PROMPT[5:]), saving(saved))
        model = load(RANDOM)
        model.loadPromptCache(str(saved))
        assert prefilled(model, PROMPT[5:]) == 1

    def test_replaces_a_damaged_one(self, load, path):
        path.write_bytes(MAGIC)
        Run(load(RANDOM), tokens(PROMPT), saving(path))
        load(RANDOM).loadPromptCache(str(path))

    def test_with_a_long_name(self, load, tmp_path):
        path = tmp_path / ("提" * 85)
        Run(load(RANDOM), tokens(PROMPT), saving(path))
        assert os.listdir(tmp_path) == [path.name]

    def test_of_a_history_has_all_of_it(self, load, path):
        model = load(RANDOM)
        answer = Run(model, tokens(PROMPT), greedy(max_new_tokens=3, keep_history=1)).tokens[:3]
        Run(model, tokens([9, 9]), saving(path, keep_history=1))
        model = load(RANDOM)
        model.loadPromptCache(str(path))
        assert prefilled(model, [*PROMPT, *answer, 9, 9, 7]) == 1

    def test_has_nothing_of_the_answer(self, load, saved):
        model = load(RANDOM)
        model.loadPromptCache(str(saved))
        assert len(model._cache.places) == LENGTH

    def test_of_a_run_aborted_in_its_answer(self, load, path):
        model = load(RANDOM)
        run = Run(model, tokens(PROMPT), saving(path), lambda result, state: model.abort())
        assert run.reason == "abort"
        model.loadPromptCache(str(path))
        assert prefilled(cut(model)) == 1

    def test_of_a_run_aborted_before_its_answer_does_not_happen(self, load, path):
        model = load(RANDOM)
        model.prepare()
        model.abort()
        assert Run(model, tokens(PROMPT), saving(path), prepare=False).reason == "abort"
        assert not path.exists()


class TestRefusedTargets:
    """Told before anything is computed."""

    @pytest.fixture
    def refused(self, load):
        model = load(RANDOM)

        def refused(path):
            seen = []
            with pytest.raises(RuntimeCallFailed) as caught:
                Run(model, tokens(PROMPT), saving(path), lambda result, state: seen.append(state))
            assert not seen
            assert model.getKVCacheSize() == [0]
            assert caught.value.data == {"function": "rkllm_run", "status": -1}
            return caught.value.detail.removeprefix("the prompt cache cannot be saved: ")

        return refused

    def test_missing_directory(self, refused, tmp_path):
        assert refused(tmp_path / "none/prompt.cache") == "the directory to save it in does not exist"

    def test_directory_that_cannot_be_written_to(self, refused, path, monkeypatch):
        monkeypatch.setattr(os, "access", lambda name, mode: name != str(path.parent))
        assert refused(path) == "the directory to save it in cannot be written to"

    @pytest.mark.parametrize("data", [b"", b"my diary", b"RKCACHE0" + bytes(99)])
    def test_foreign_file_stays(self, refused, path, data):
        path.write_bytes(data)
        assert refused(path) == "what is there already is no prompt cache, and stays"
        assert path.read_bytes() == data

    def test_link_stays(self, refused, saved):
        link = saved.with_name("link")
        link.symlink_to(saved)
        assert refused(link) == "what is there already is no prompt cache, and stays"
        assert link.is_symlink()

    def test_dangling_link_stays(self, refused, path):
        path.symlink_to(path.with_name("none"))
        assert refused(path) == "what is there already is no prompt cache, and stays"

    def test_directory_and_named_pipe(self, refused, path):
        for make in (os.mkdir, os.mkfifo):
            make(path)
            assert refused(path) == "what is there already is no prompt cache, and stays"
            os.rmdir(path) if path.is_dir() else os.unlink(path)


class TestFailedWrites:
    @pytest.mark.parametrize("function", ["fsync", "replace"])
    def test_leave_the_old_file_and_nothing_else(self, load, saved, monkeypatch, function):
        before = saved.read_bytes()

        def fail(*arguments):
            raise OSError(errno.ENOSPC, "no space")

        monkeypatch.setattr(os, function, fail)
        model = load(RANDOM)
        with pytest.raises(RuntimeCallFailed, match="the prompt cache cannot be saved: no space left on device"):
            Run(model, tokens(PROMPT[5:]), saving(saved))
        assert saved.read_bytes() == before
        assert os.listdir(saved.parent) == [saved.name]
        assert model.getKVCacheSize() == [model._context.count(0)]

    def test_directory_that_vanished_meanwhile(self, load, tmp_path):
        (tmp_path / "d").mkdir()

        def vanish(result, state):
            if (tmp_path / "d").exists():
                (tmp_path / "d").rmdir()

        with pytest.raises(RuntimeCallFailed, match="does not exist"):
            Run(load(RANDOM), tokens(PROMPT), saving(tmp_path / "d/prompt.cache"), vanish)

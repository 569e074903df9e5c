"""Prompt caches that runs save: whole or not at all, and over nothing else."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from rkllm_twisted.backends.llamacpp.promptcache import MAGIC
from rkllm_twisted.errors import RuntimeCallFailed
from rkllm_twisted.values import (
    RKLLMPromptCacheParam,
)
from tests.backends.llamacpp.asking import tokenInput
from tests.backends.llamacpp.caching import LENGTH, PROMPT, forgetful, prefilled, saving
from tests.backends.llamacpp.running import greedy
from tests.backends.runs import Run

RANDOM = {"style": "random"}


class TestSaving:
    def test_is_whole_and_of_its_owner_only(self, saved, tmp_path):
        assert stat.S_IMODE(saved.stat().st_mode) == 0o600
        assert os.listdir(tmp_path) == [saved.name]

    def test_default_path(self, load, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Run(load(RANDOM), tokenInput(PROMPT), saving(""))
        assert os.listdir() == ["prompt_cache.bin"]

    def test_only_if_asked(self, load, cachePath):
        param = RKLLMPromptCacheParam(save_prompt_cache=0, prompt_cache_path=str(cachePath))
        Run(load(RANDOM), tokenInput(PROMPT), greedy(max_new_tokens=1, prompt_cache_params=param))
        assert not cachePath.exists()

    def test_replaces_an_older_one(self, load, saved):
        Run(load(RANDOM), tokenInput(PROMPT[5:]), saving(saved))
        model = load(RANDOM)
        model.loadPromptCache(str(saved))
        assert prefilled(model, PROMPT[5:]) == 1

    def test_replaces_a_damaged_one(self, load, cachePath):
        cachePath.write_bytes(MAGIC)
        Run(load(RANDOM), tokenInput(PROMPT), saving(cachePath))
        load(RANDOM).loadPromptCache(str(cachePath))

    def test_with_a_long_name(self, load, tmp_path):
        path = tmp_path / ("提" * 85)
        Run(load(RANDOM), tokenInput(PROMPT), saving(path))
        assert os.listdir(tmp_path) == [path.name]

    def test_of_a_history_has_all_of_it(self, load, cachePath):
        model = load(RANDOM)
        answer = Run(model, tokenInput(PROMPT), greedy(max_new_tokens=3, keep_history=1)).tokens[:3]
        Run(model, tokenInput([9, 9]), saving(cachePath, keep_history=1))
        model = load(RANDOM)
        model.loadPromptCache(str(cachePath))
        assert prefilled(model, [*PROMPT, *answer, 9, 9, 7]) == 1

    def test_has_nothing_of_the_answer(self, load, saved):
        model = load(RANDOM)
        model.loadPromptCache(str(saved))
        assert len(model._cache.places) == LENGTH

    def test_of_a_run_aborted_in_its_answer(self, load, cachePath):
        model = load(RANDOM)
        run = Run(model, tokenInput(PROMPT), saving(cachePath), lambda result, state: model.abort())
        assert run.reason == "abort"
        model.loadPromptCache(str(cachePath))
        assert prefilled(forgetful(model)) == 1

    def test_of_a_run_aborted_before_its_answer_does_not_happen(self, load, cachePath):
        model = load(RANDOM)
        model.prepare()
        model.abort()
        assert Run(model, tokenInput(PROMPT), saving(cachePath), prepare=False).reason == "abort"
        assert not cachePath.exists()


class TestRefusedTargets:
    """Told before anything is computed."""

    @pytest.fixture
    def refused(self, load):
        model = load(RANDOM)

        def refused(path):
            seen = []
            with pytest.raises(RuntimeCallFailed) as caught:
                Run(model, tokenInput(PROMPT), saving(path), lambda result, state: seen.append(state))
            assert not seen
            assert model.getKVCacheSize() == [0]
            assert caught.value.data == {"function": "rkllm_run", "status": -1}
            return caught.value.detail.removeprefix("the prompt cache cannot be saved: ")

        return refused

    def test_missing_directory(self, refused, tmp_path):
        assert refused(tmp_path / "none/prompt.cache") == "the directory to save it in does not exist"

    def test_directory_that_cannot_be_written_to(self, refused, cachePath, monkeypatch):
        monkeypatch.setattr(os, "access", lambda name, mode: name != str(cachePath.parent))
        assert refused(cachePath) == "the directory to save it in cannot be written to"

    @pytest.mark.parametrize("data", [b"", b"my diary", b"RKCACHE0" + bytes(99)])
    def test_foreign_file_stays(self, refused, cachePath, data):
        cachePath.write_bytes(data)
        assert refused(cachePath) == "what is there already is no prompt cache, and stays"
        assert cachePath.read_bytes() == data

    def test_link_stays(self, refused, saved):
        link = saved.with_name("link")
        link.symlink_to(saved)
        assert refused(link) == "what is there already is no prompt cache, and stays"
        assert link.is_symlink()

    def test_dangling_link_stays(self, refused, cachePath):
        cachePath.symlink_to(cachePath.with_name("none"))
        assert refused(cachePath) == "what is there already is no prompt cache, and stays"

    def test_directory_and_named_pipe(self, refused, cachePath):
        for make in (os.mkdir, os.mkfifo):
            make(cachePath)
            assert refused(cachePath) == "what is there already is no prompt cache, and stays"
            os.rmdir(cachePath) if cachePath.is_dir() else os.unlink(cachePath)


class TestFailedWrites:
    @pytest.mark.parametrize("function", ["fsync", "replace"])
    def test_leave_the_old_file_and_nothing_else(self, load, saved, monkeypatch, function):
        before = saved.read_bytes()

        def fail(*arguments):
            raise OSError(errno.ENOSPC, "no space")

        monkeypatch.setattr(os, function, fail)
        model = load(RANDOM)
        with pytest.raises(RuntimeCallFailed, match="the prompt cache cannot be saved: no space left on device"):
            Run(model, tokenInput(PROMPT[5:]), saving(saved))
        assert saved.read_bytes() == before
        assert os.listdir(saved.parent) == [saved.name]
        assert model.getKVCacheSize() == [model._context.count(0)]

    def test_directory_that_vanished_meanwhile(self, load, tmp_path):
        (tmp_path / "d").mkdir()

        def vanish(result, state):
            if (tmp_path / "d").exists():
                (tmp_path / "d").rmdir()

        with pytest.raises(RuntimeCallFailed, match="does not exist"):
            Run(load(RANDOM), tokenInput(PROMPT), saving(tmp_path / "d/prompt.cache"), vanish)

"""Prompt caches that runs save, and what the cache of the library must not be trusted with."""

import os
import resource
import stat

import pytest

from rkllm_twisted.backends.rkllm.families import FAMILIES
from rkllm_twisted.backends.rkllm.saving import MARK, PromptCacheFile
from rkllm_twisted.errors import RuntimeCallFailed
from rkllm_twisted.values import (
    Capability,
    RKLLMLoraAdapter,
    RKLLMLoraParam,
    RKLLMPromptCacheParam,
)
from tests.backends.rkllm.running import Run
from tests.standins import everyFamily, needsCompiler

pytestmark = needsCompiler


def saving(path):
    return RKLLMPromptCacheParam(save_prompt_cache=1, prompt_cache_path=str(path))


def hasAttributes(directory):
    try:
        os.setxattr(directory, MARK, b"1")
    except OSError:
        return False
    return True


@pytest.fixture
def place(tmp_path):
    """A directory for nothing but what is saved."""
    directory = tmp_path / "saved"
    directory.mkdir()
    return directory


@everyFamily
def test_file_is_whole_and_its_owners_alone(key, load, place):
    path = place / "cache"
    Run(load(key), "one two three", prompt_cache_params=saving(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_size
    assert os.listdir(place) == ["cache"]


@everyFamily
def test_what_was_saved_here_may_be_saved_again(key, load, place):
    if not hasAttributes(place):
        pytest.skip("this file system has no extended attributes")
    model, path = load(key), place / "cache"
    Run(model, "one two three", prompt_cache_params=saving(path))
    first = path.read_bytes()
    Run(model, "four five six seven", prompt_cache_params=saving(path))
    assert path.read_bytes() != first
    assert os.listdir(place) == ["cache"]


@everyFamily
def test_nothing_else_is_written_over(key, load, library, place):
    (place / "mine").write_text("precious")
    (place / "link").symlink_to(place / "mine")
    (place / "directory").mkdir()
    model = load(key)
    for name in ("mine", "link", "directory"):
        with pytest.raises(RuntimeCallFailed, match="bears no mark of a prompt cache") as failed:
            Run(model, "one two three", prompt_cache_params=saving(place / name))
        assert failed.value.data == {"function": "rkllm_run", "status": -1}
    assert "rkllm_run" not in library.calls()
    assert (place / "mine").read_text() == "precious"
    assert sorted(os.listdir(place)) == ["directory", "link", "mine"]


def test_directory_that_is_missing(place):
    with pytest.raises(RuntimeCallFailed, match="no such file or directory"):
        PromptCacheFile(str(place / "nowhere" / "cache"))


def test_something_that_has_come_there_meanwhile(place):
    file = PromptCacheFile(str(place / "cache"))
    with open(file.path, "w") as written:
        written.write("state")
    (place / "cache").write_text("precious")
    with pytest.raises(RuntimeCallFailed, match="bears no mark"):
        file.putInPlace()
    file.close()
    assert (place / "cache").read_text() == "precious"
    assert os.listdir(place) == ["cache"]


def test_library_that_wrote_nothing(place):
    file = PromptCacheFile(str(place / "cache"))
    with pytest.raises(RuntimeCallFailed, match="the library wrote nothing"):
        file.putInPlace()
    file.close()
    assert os.listdir(place) == []


@pytest.mark.parametrize(("most", "said"), [(50_000, "file too large"), (60_000, "no space left on device")])
def test_file_that_may_be_short(place, most, said):
    """A library on a full disk writes what fits, and the run returns 0. A limit of the size of files is the disk."""
    file = PromptCacheFile(str(place / "cache"))
    with open(file.path, "wb") as written:
        written.write(bytes(50_000))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        with pytest.raises(RuntimeCallFailed, match=said):
            file.putInPlace()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    file.close()
    assert os.listdir(place) == []


@everyFamily
def test_failed_run_leaves_what_was_there(key, load, library, place):
    model, path = load(key), place / "cache"
    library.script("error=2")
    with pytest.raises(RuntimeCallFailed):
        Run(model, "one two three", prompt_cache_params=saving(path))
    assert os.listdir(place) == []


@everyFamily
def test_pipe_is_not_given_to_the_library(key, load, library, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    model, path = load(key), str(tmp_path / "pipe")
    with pytest.raises(RuntimeCallFailed, match="not a regular file"):
        model.loadPromptCache(path)
    with pytest.raises(RuntimeCallFailed, match="not a regular file"):
        model.loadLora(RKLLMLoraAdapter(lora_adapter_path=path, lora_adapter_name="a"))
    assert not {"rkllm_load_prompt_cache", "rkllm_load_lora"} & set(library.calls())


@pytest.mark.parametrize(
    "key", [key for key, family in FAMILIES.items() if "set_function_tools" in family.capabilities]
)
def test_tools_clear_the_cache(key, load):
    """The vendor says so of the chat template only, and in a history new functions would never be shown."""
    model = load(key)
    Run(model, "one two three", keep_history=1)
    assert model.getKVCacheSize() != [0]
    model.setFunctionTools("", '[{"name": "add"}]', "")
    assert model.getKVCacheSize() == [0]


@pytest.mark.parametrize(
    "key", [key for key, family in FAMILIES.items() if Capability.CLEAR_KV_CACHE in family.capabilities]
)
def test_prefix_is_not_found_again_with_another_adapter(key, load, library, tmp_path):
    """Whether the library takes care of that is not known."""
    (tmp_path / "adapter").write_text("any file is one")
    model = load(key)
    model.loadLora(RKLLMLoraAdapter(lora_adapter_path=str(tmp_path / "adapter"), lora_adapter_name="a"))
    for chosen in (None, None, RKLLMLoraParam(lora_adapter_name="a"), RKLLMLoraParam(lora_adapter_name="a")):
        Run(model, "one two three", lora_params=chosen)
    reused = [event["reused"] > 0 for event in library.events("prefill")]
    assert reused == [False, True, False, True]

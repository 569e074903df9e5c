"""After a crash a new child is where the old one was; what it prints is logged; nothing piles up."""

import gc

import pytest
import pytest_twisted

from rkllm_twisted.errors import BackendLost, ModelNotInitialized
from rkllm_twisted.values import RKLLMCrossAttnParam, RKLLMLoraAdapter
from tests.backends.isolated.children import (
    backendOf,
    childGone,
    descriptors,
    errorOf,
    isAlive,
    say,
    start,
    stateOf,
    zombies,
)

asynchronous = pytest_twisted.ensureDeferred


def adapter(name, path="x"):
    return RKLLMLoraAdapter(lora_adapter_path=path, lora_adapter_name=name)


@asynchronous
async def test_new_child_is_where_the_old_one_was(children):
    model = await children.load()
    encoder = RKLLMCrossAttnParam(
        encoder_k_cache=[0.5], encoder_v_cache=[1.5], encoder_mask=[1.0], encoder_pos=[0], num_tokens=1
    )
    await model.loadLora(adapter("first"))
    await model.setChatTemplate("old", "", "")
    await model.setChatTemplate("be brief", "<", ">")
    await model.loadLora(adapter("second"))
    await model.setFunctionTools("", "[1]", "")
    await model.loadPromptCache("/replaced")
    await model.loadPromptCache("/cache")
    await model.setCrossAttnParams(encoder)
    await model.clearKVCache(False, [(1, 2)])
    before = await stateOf(model)
    await errorOf(model, "!signal=SEGV")
    after = await stateOf(model)
    assert before.pop("pid") != after.pop("pid")
    assert before.pop("cleared") == [[1, 2]]  # of what is gone
    assert (
        after
        == before
        == {
            "adapters": ["first", "second"],
            "template": ["be brief", "<", ">"],
            "tools": "[1]",
            "cache": "/cache",
            "encoder": [1, [0.5]],
        }
    )
    await model.releasePromptCache()
    await errorOf(model, "!signal=SEGV")
    assert "cache" not in await stateOf(model)
    children.forgive(2)


@asynchronous
async def test_function_that_fails_now(children, tmp_path):
    """An adapter's file has gone: the rest is done again, and the log says so."""
    path = tmp_path / "adapter"
    path.touch()
    model = await children.load()
    await model.loadLora(adapter("first", f"!file={path}"))
    await model.setChatTemplate("be brief", "", "")
    path.unlink()
    await errorOf(model, "!signal=SEGV")
    state = await stateOf(model)
    assert "adapters" not in state
    assert state["template"][0] == "be brief"
    children.forgive(2)


@asynchronous
async def test_model_file_that_has_gone(children, tmp_path):
    """What waits is told, and a new init works as soon as the file is back."""
    path = tmp_path / "model"
    path.touch()
    backend = backendOf()
    model = await children.load(f"!file={path}", backend)
    lost, _ = start(model, "!signal=SEGV")
    path.unlink()
    waiting, _ = await lost.ended.addErrback(lambda failure: start(model, "one"))
    with pytest.raises(BackendLost, match="cannot be loaded again: model load failed: there is no model") as told:
        await waiting.ended
    assert told.value.data == {"restarting": False}
    later, _ = await errorOf(model, "two")
    assert later.data == {"restarting": False}
    path.touch()
    assert await say(await children.load(f"!file={path}", backend), "three") == ["three"]
    children.forgive(2)


@asynchronous
async def test_crash_loop_and_a_new_init(children):
    backend = backendOf(crashes=3, crashSeconds=60)
    model = await children.load(backend=backend)
    data = [(await errorOf(model, "!signal=SEGV"))[0].data["restarting"] for _ in range(3)]
    assert data == [True, True, False]
    receiver, _ = start(model, "one")
    assert receiver.endings == 0, "nothing comes from inside run"
    with pytest.raises(BackendLost, match=r"3 times within 60 s; load the model again with rkllm\.init") as told:
        await receiver.ended
    assert told.value.data == {"restarting": False}
    with pytest.raises(BackendLost):
        await model.getKVCacheSize()
    await model.destroy()
    assert await say(await children.load(backend=backend), "one") == ["one"]
    children.forgive(4)


@asynchronous
async def test_crash_loop_of_a_model_that_dies_when_it_is_loaded_again(children, tmp_path):
    flag = tmp_path / "flag"
    model = await children.load(f"!with={flag} !signal=BUS", crashes=3)
    flag.touch()
    lost, _ = start(model, "!signal=SEGV")
    waiting, _ = await lost.ended.addErrback(lambda failure: start(model, "one"))
    with pytest.raises(BackendLost, match="3 times"):
        await waiting.ended
    children.forgive(4)


@asynchronous
async def test_abort_while_a_new_child_is_on_its_way(children):
    """It ends at once: loading a model may take minutes."""
    model = await children.load()
    await errorOf(model, "!signal=SEGV")
    receiver, generation = start(model, "one")
    generation.abort()
    assert receiver.endings == 0
    await receiver.ended
    assert (receiver.reason, receiver.results) == ("abort", [])
    assert model._kept._child.startedAt is None, "it has not waited for the child"
    assert await say(model, "two") == ["two"]
    children.forgive(1)


@asynchronous
async def test_destroy_while_a_new_child_is_on_its_way(children):
    model = await children.load()
    await errorOf(model, "!signal=SEGV")
    receiver, _ = start(model, "one")
    pid = model._kept._child.pid
    await model.destroy()
    assert not isAlive(pid)
    await receiver.ended
    assert receiver.reason == "abort"
    children.forgive(1)


@asynchronous
async def test_destroyed_model_takes_nothing(children):
    model = await children.load()
    destroyed = model.destroy()
    for call in (lambda: start(model, "one"), model.getKVCacheSize, lambda: model.setChatTemplate("", "", "")):
        with pytest.raises(ModelNotInitialized):
            call()
    await destroyed


@asynchronous
async def test_child_that_has_grown_is_exchanged_between_two_runs(children):
    model = await children.load(memory=100 * 2**20, memorySeconds=0.02)
    await model.setChatTemplate("be brief", "", "")
    small = (await stateOf(model))["pid"]
    receiver, _ = start(model, "!grow=100 !state !many=20000 !state")
    await receiver.ended
    assert {text for result in receiver.results if "pid" in (text := result.text)} == {
        f'{{"pid": {small}, "template": ["be brief", "", ""]}}'
    }, "never in the midst of a run"
    assert model.epoch == 1
    state = await stateOf(model)
    assert state["pid"] != small
    assert state["template"] == ["be brief", "", ""]


@asynchronous
async def test_idle_child_that_has_grown_is_exchanged(children):
    """In a function it grows and is not touched; afterwards it is."""
    model = await children.load(memory=100 * 2**20, memorySeconds=0.02)
    grown = childGone(model)
    await model.setChatTemplate("!grow=100", "", "")
    await grown
    assert model.epoch == 1
    model._kept._journal._entries.pop()  # it would grow again


@asynchronous
async def test_descriptors_and_zombies_are_flat(children):
    model = await children.load()
    await errorOf(model, "!exit=1")
    await say(model, "one")
    gc.collect()
    before = descriptors()
    for number in range(50):
        receiver, _ = start(model, "!exit=1" if number % 2 else "one !signal=KILL")
        await receiver.ended.addErrback(lambda failure: failure.trap(BackendLost))
    await say(model, "one")
    gc.collect()
    assert descriptors() == before
    assert not zombies()
    assert model.epoch == 51
    children.forgive(51)


# What it prints


def linesOf(logged):
    return [
        event["line"] for event in logged if event.get("log_namespace") == "rkllm_twisted.runtime" and "line" in event
    ]


@asynchronous
async def test_last_words_are_logged(children, logged, monkeypatch):
    """C and Python would keep them in a buffer, which dies with the process."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    model = await children.load()
    await errorOf(model, "!printf=words-of-C !print=words-of-Python !segfault")
    assert {"words-of-C", "words-of-Python"} <= set(linesOf(logged))
    children.forgive(1)


@asynchronous
async def test_chatter_does_not_hold_up_a_run(children, logged):
    model = await children.load()
    for prompt in (
        "!write=1,lines,5000",
        "!write=2,lines,5000",
        "!write=1,binary,1000",
        "!write=2,blob,10000000",
        "!write=1,empty,100000",
        "!flood=1 !flood=2",
    ):
        assert await say(model, f"one {prompt} two") == ["one", "two"]
    assert model.epoch == 0
    await model.destroy()
    lines = linesOf(logged)
    assert len(lines) < 1000
    assert all(line.isprintable() and len(line) <= 4 * 2000 for line in lines)
    assert any("more lines" in event["log_format"] for event in logged)


@asynchronous
async def test_traceback_of_a_defect_is_logged(children, logged):
    model = await children.load()
    await errorOf(model, "!raise=ValueError")
    await model.destroy()
    assert any("ValueError: a defect" in line for line in linesOf(logged))

"""The model that users get: SmolLM2-135M-Instruct out of its package."""

from __future__ import annotations

import pytest
from msgspec import structs

from rkllm_twisted.backends.llamacpp import makeBackend
from tests.backends.llamacpp.running import greedy
from tests.backends.runs import Run


@pytest.fixture(scope="module")
def model(packaged):
    runtime = makeBackend({})
    model = runtime.init(structs.replace(runtime.createDefaultParam(), model_path=packaged, skip_special_token=True))
    yield model
    model.destroy()


def test_capital_of_france(model):
    run = Run(model, "What is the capital of France?", greedy(max_new_tokens=40))
    assert "Paris" in run.text
    assert run.reason == "stop"


def test_characters_stay_whole(model):
    run = Run(model, "Write these characters again: 🦊 é 日本語", greedy(max_new_tokens=40))
    assert "🦊" in run.text

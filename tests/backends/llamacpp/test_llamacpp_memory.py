"""A model that is destroyed gives its memory back, with all that was loaded for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.backends.llamacpp.adapting import QUERY, writeTensors
from tests.tiny_model import WIDTH

LENGTH = 131072
CACHE = LENGTH * 2 * 2 * (16 + 16) * 2
"""Bytes of the KV cache: 2 layers with 2 heads of keys and of values, 16 wide, 2 bytes each."""
RANK = 40_000
ADAPTER = RANK * WIDTH * 2 * 4
"""Bytes of the two halves of the adapter."""
LOADS = 7
PROMPT = 3500
SAVED = PROMPT * CACHE // LENGTH
"""Bytes of the KV cache of the prompt that is saved and loaded."""
ALLOWED = 4 << 20
"""By so many bytes what a process holds may differ from round to round: pages that the interpreter has touched
meanwhile, and what the allocator keeps in its many pieces (measured: 1 MB)."""

CHILD = """
import json, sys
from pathlib import Path
from msgspec import structs
from rkllm_twisted.backends.llamacpp import makeBackend
from rkllm_twisted.values import RKLLMLoraAdapter, RKLLMLoraParam, RKLLMPromptCacheParam
from tests.backends.llamacpp.asking import someTokens, tokenInput
from tests.backends.llamacpp.running import greedy
from tests.backends.runs import Run

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return {name: int(line.split()[1]) << 10 for line in lines for name in ("VmRSS", "VmHWM") if line.startswith(name)}

path, adapter, cache, length, loads, prompt = sys.argv[1:]
prompt = tokenInput(someTokens(int(prompt)))
runtime, figures = makeBackend({"threads": "1"}), [resident()]
for number in range(int(loads)):
    param = structs.replace(runtime.createDefaultParam(), model_path=path, max_context_len=int(length))
    model = runtime.init(param)
    model.loadLora(RKLLMLoraAdapter(lora_adapter_path=adapter, lora_adapter_name="large"))
    if number:
        model.loadPromptCache(cache)
    chosen = RKLLMLoraParam(lora_adapter_name="large")
    Run(model, tokenInput([9]), greedy(max_new_tokens=1, lora_params=chosen))
    saving = RKLLMPromptCacheParam(save_prompt_cache=1, prompt_cache_path=cache)
    Run(model, prompt, greedy(max_new_tokens=3, keep_history=1, prompt_cache_params=saving))
    figures.append(resident())
    model.destroy()
    figures.append(resident())
print(json.dumps(figures))
"""


@pytest.fixture(scope="module")
def figures(models, tmp_path_factory):
    """What a process holds: before the first load, then with each model and after each destroy, in bytes."""
    directory = tmp_path_factory.mktemp("memory")
    path, adapter = models(style="random", contextLength=LENGTH), directory / "large.gguf"
    halves = {
        f"{QUERY}.lora_a": np.full((RANK, WIDTH), 1e-6, np.float32),
        f"{QUERY}.lora_b": np.full((WIDTH, RANK), 1e-6, np.float32),
    }
    writeTensors(adapter, halves, {"adapter.lora.alpha": float(RANK)})
    arguments = [path, adapter, directory / "cache.bin", str(LENGTH), str(LOADS), str(PROMPT)]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-1000:]
    return json.loads(done.stdout)


def test_a_loaded_model_holds_what_was_reckoned(figures):
    """Else the other tests would show nothing."""
    for before, loaded in zip(figures[::2], figures[1::2], strict=False):
        assert loaded["VmRSS"] - before["VmRSS"] > CACHE + ADAPTER


def test_stays_flat_over_loads_and_destroys(figures):
    """The first round pays for what stays, such as code that was not touched before. Of what a round makes, the
    smallest part that could be forgotten is a prompt cache: six of them are more than is allowed for all rounds.
    """
    after = [figure["VmRSS"] for figure in figures[2::2]]
    assert len(after) == LOADS
    assert max(after[1:]) - after[0] < ALLOWED < (LOADS - 1) * SAVED
    assert after[0] - figures[0]["VmRSS"] < CACHE  # nor is it given back by the next load only


def test_never_holds_two_models(figures):
    """The most that was ever held is what one model takes, and in later rounds the prompt cache that is loaded, a few
    times over while it is read; a second model would be twice the bound."""
    assert figures[-2]["VmHWM"] - figures[1]["VmHWM"] < (CACHE + ADAPTER) / 2

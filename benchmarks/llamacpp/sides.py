"""The two sides that the benchmarks compare: llama.cpp driven directly in this process, and the daemon in its own.

Both load the model with the same parameters and compute with one thread. Directly means the C functions of the binding,
in the same blocks as the backend, with nothing of the backend above `context.Context`.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.client import Client
from benchmarks.servers import TWISTD, Server, processor
from rkllm_twisted.backends.llamacpp.context import BLOCK
from rkllm_twisted.backends.llamacpp.generation import peakMemory
from rkllm_twisted.backends.llamacpp.library import theLibrary
from rkllm_twisted.backends.llamacpp.loaded import load
from rkllm_twisted.backends.llamacpp.models import findModel
from rkllm_twisted.backends.llamacpp.prompting import Prompting
from rkllm_twisted.backends.llamacpp.sampling import SamplerChain
from rkllm_twisted.values import RKLLMSamplingParam

CONTEXT = 1280
PARAM = {"max_context_len": CONTEXT, "top_k": 1, "ignore_eos_token": True}


def measured(side: Direct | Daemon, work: Callable[..., float], *arguments: object) -> tuple[float, float]:
    """The seconds that work of a side takes, and the CPU seconds of that side's process in it."""
    began = processor(side.pid)
    seconds = work(*arguments)
    return seconds, processor(side.pid) - began


def machine() -> str:
    """What the figures are of, in a line."""
    return f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, one thread each"


class Direct:
    """llama.cpp in this process.

    Args:
        model: A file, or a short name such as smollm2.
    """

    def __init__(self, model: str) -> None:
        self.pid = os.getpid()
        file = findModel(model)
        self._loaded = load(theLibrary(), file, contextLength=CONTEXT, threads=1)
        self._context = self._loaded.context
        self._prompting = Prompting(self._loaded.chatTemplate, self._loaded.vocabulary.specialText(), file.systemPrompt)

    def tokens(self, prompt: str) -> list[int]:
        """The tokens of a prompt in the model's chat template."""
        return self._loaded.vocabulary.tokenize(self._prompting.turns.first(prompt, "user", False), CONTEXT)

    def generate(self, prompt: list[int], count: int) -> float:
        """Generate greedily and throw the tokens away.

        Returns:
            Seconds from the first token to the last.
        """
        chain = SamplerChain(self._loaded.library, RKLLMSamplingParam(top_k=1), self._loaded.vocabulary.size, None)
        self._compute(prompt, len(prompt) - 1, lambda outputs: None)
        token = chain.sample(self._context.pointer, -1)
        began = time.perf_counter()
        for position in range(len(prompt), len(prompt) + count - 1):
            self._context.step([0], [position], [token])
            token = chain.sample(self._context.pointer, 0)
        elapsed = time.perf_counter() - began
        chain.close()
        return elapsed

    def logits(self, prompt: list[int]) -> float:
        """The last row of logits of a prompt. Returns seconds."""
        began = time.perf_counter()
        self._compute(prompt, len(prompt) - 1, lambda outputs: outputs and self._context.logits(outputs))
        return time.perf_counter() - began

    def hiddenStates(self, prompt: list[int]) -> float:
        """A row of hidden states for each token of a prompt. Returns seconds."""
        began, rows = time.perf_counter(), list[bytes]()
        self._context.giveHiddenStates(True)
        self._compute(prompt, 0, lambda outputs: rows.append(self._context.hiddenStates(0, outputs)))
        b"".join(rows)
        elapsed = time.perf_counter() - began
        self._context.giveHiddenStates(False)
        return elapsed

    def _compute(self, prompt: list[int], firstOutput: int, blockDone: Callable[[int], object]) -> None:
        self._context.cut(0, 0)
        for start in range(0, len(prompt), BLOCK):
            block: list[int | bytes] = [*prompt[start : start + BLOCK]]
            outputs = min(len(block), max(0, start + len(block) - firstOutput))
            self._context.compute(0, start, block, outputs)
            blockDone(outputs)

    def peak(self) -> float:
        """The most memory that this process ever had, in MB."""
        return peakMemory()


class Daemon:
    """``twistd rkllm`` in a process of its own, and a client that reads its lines and parses nothing.

    The model is in that process too, and not in a child of it: its CPU time and its memory are what is measured.

    Args:
        model: As `Direct`.
        directory: Where its socket is.
    """

    def __init__(self, model: str, directory: str) -> None:
        options = ["--backend", "llamacpp:threads=1", "--isolation", "none", "--listen", "unix:{path}"]
        path = Path(directory, "s")
        self._server = Server("daemon", [*TWISTD, "rkllm", *options], path, "Server started successfully")
        self._client = Client(path, patience=None)
        self.pid = self._server.pid
        self.replyLength = 0
        assert "result" in self._client.ask("rkllm.init", None, {"model_path": model, **PARAM})

    def generate(self, prompt: list[int], count: int) -> float:
        """As `Direct.generate`, from the first line to the last with a token."""
        self._run(prompt, {"max_new_tokens": count})
        self._client.rawLine()
        began = time.perf_counter()
        for _ in range(count - 1):
            self._client.rawLine()
        elapsed = time.perf_counter() - began
        self._finish()
        return elapsed

    def tensors(self, prompt: list[int], mode: int, rows: str, tensors: str) -> float:
        """The rows of a prompt; `replyLength` is then the length of their line, in bytes.

        Returns:
            Seconds from sending the request to having its line.
        """
        began = time.perf_counter()
        delivery = {"rows": rows, "tensors": tensors}
        self._run(prompt, {"mode": mode, "max_new_tokens": 1}, delivery)
        self.replyLength = len(self._client.rawLine())
        elapsed = time.perf_counter() - began
        self._finish()
        return elapsed

    def peak(self) -> float:
        """The most memory that its process ever had, in MB."""
        return peakMemory(Path(f"/proc/{self.pid}/status"))

    def stop(self) -> None:
        """Stop it, and wait for that."""
        self._client.close()
        self._server.stop()

    def _run(self, prompt: list[int], inferParam: dict[str, int], delivery: dict[str, str] | None = None) -> None:
        input = {"input_type": 1, "token_input": {"input_ids": prompt, "n_tokens": len(prompt)}}
        params = [None, input, inferParam, delivery]
        self._client.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "rkllm.run", "params": params}))

    def _finish(self) -> None:
        line = self._client.rawLine()
        assert b'"_callback_state":2' in line, line[:200]

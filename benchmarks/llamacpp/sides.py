"""The two sides that the benchmarks compare: llama.cpp driven directly in this process, and the daemon in its own.

Both load the model with the same parameters and compute with one thread. Directly means the C functions of the binding,
in the same blocks as the backend, with nothing of the backend above `context.Context`.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.servers import processor
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

    Args:
        model: As `Direct`.
        directory: Where its socket is.
    """

    def __init__(self, model: str, directory: str) -> None:
        path = os.path.join(directory, "s")
        twistd = str(Path(sys.executable).with_name("twistd"))
        self._process = subprocess.Popen(
            [twistd, "-n", "--pidfile=", "rkllm", "--backend", "llamacpp:threads=1", "--listen", f"unix:{path}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self._output = self._process.stdout
        while "Server started successfully" not in self._output.readline():
            pass
        self.pid = self._process.pid
        self.replyLength = 0
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._lines = self._socket.makefile("rb")
        self.ask("rkllm.init", {"model_path": model, **PARAM})
        assert b'"success":true' in self.line()

    def ask(self, method: str, *params: object) -> None:
        """Send a request."""
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": [None, *params]}
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def line(self) -> bytes:
        """The next line."""
        return self._lines.readline()

    def generate(self, prompt: list[int], count: int) -> float:
        """As `Direct.generate`, from the first line to the last with a token."""
        self.ask("rkllm.run", _tokenInput(prompt), {"max_new_tokens": count})
        self.line()
        began = time.perf_counter()
        for _ in range(count - 1):
            self.line()
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
        self.ask("rkllm.run", _tokenInput(prompt), {"mode": mode, "max_new_tokens": 1}, delivery)
        self.replyLength = len(self.line())
        elapsed = time.perf_counter() - began
        self._finish()
        return elapsed

    def _finish(self) -> None:
        line = self.line()
        assert b'"_callback_state":2' in line, line[:200]

    def peak(self) -> float:
        """The most memory that its process ever had, in MB."""
        return peakMemory(Path(f"/proc/{self.pid}/status"))

    def stop(self) -> None:
        """Stop it, and wait for that."""
        self._lines.close()
        self._socket.close()
        self._process.terminate()
        self._process.wait()
        self._output.close()


def _tokenInput(tokens: list[int]) -> dict[str, object]:
    return {"input_type": 1, "token_input": {"input_ids": tokens, "n_tokens": len(tokens)}}

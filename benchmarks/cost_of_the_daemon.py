"""What the daemon costs: tokens per second through the socket against llama.cpp driven directly, in one run.

    python benchmarks/cost_of_the_daemon.py [--model smollm2] [--rounds 7] [--tokens 200]

Directly is a loop over the C functions, sample and decode, that throws the tokens away. The daemon runs in a process of
its own and its client reads the socket and parses nothing. Both generate the same greedy answer to the same prompt, in
turns, each with one thread; the median of the round-by-round ratios is what counts on a noisy machine. Both rates are
of decode: from the first token to the last, as the one who receives them sees it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from msgspec import structs

from rkllm_twisted.backends.llamacpp import makeBackend
from rkllm_twisted.values import RKLLMInput

PROMPT = "Tell me a long story about a fox."


class Direct:
    """llama.cpp in this process."""

    def __init__(self, param):
        runtime = makeBackend({"threads": "1"})
        self._model = runtime.init(structs.replace(runtime.createDefaultParam(), **param))
        self._prompt = self._model._tokens(RKLLMInput(prompt_input=PROMPT))

    def rate(self, tokens):
        from rkllm_twisted.backends.llamacpp.sampling import SamplerChain
        from rkllm_twisted.values import samplingOf

        loaded = self._model._loaded
        loaded.clear()
        chain = SamplerChain(loaded.library, samplingOf(self._model._param), loaded.vocabularySize, None)
        loaded.feed(self._prompt)
        token = chain.sample(loaded.context)
        began = time.perf_counter()
        for _ in range(tokens - 1):
            loaded.feed([token])
            token = chain.sample(loaded.context)
        elapsed = time.perf_counter() - began
        chain.close()
        return (tokens - 1) / elapsed


class Daemon:
    """The same through ``twistd rkllm``."""

    def __init__(self, param, directory):
        path = os.path.join(directory, "s")
        twistd = str(Path(sys.executable).with_name("twistd"))
        listen = f"unix:{path}"
        self._process = subprocess.Popen(
            [twistd, "-n", "--pidfile=", "rkllm", "--backend", "llamacpp:threads=1", "--listen", listen],
            stdout=subprocess.PIPE,
            text=True,
        )
        while "Server started successfully" not in self._process.stdout.readline():
            pass
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._lines = self._socket.makefile("rb")
        self._ask("rkllm.init", [param])
        self._lines.readline()

    def _ask(self, method, params):
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def rate(self, tokens):
        self._ask("rkllm.run", [{"prompt_input": PROMPT}, {"max_new_tokens": tokens}])
        self._lines.readline()
        began = time.perf_counter()
        for _ in range(tokens - 1):
            self._lines.readline()
        elapsed = time.perf_counter() - began
        assert b'"_callback_state":2' in self._lines.readline()
        return (tokens - 1) / elapsed

    def stop(self):
        self._process.terminate()
        self._process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=200)
    arguments = parser.parse_args()
    param = {"model_path": arguments.model, "max_context_len": 1024, "top_k": 1, "ignore_eos_token": True}
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, one thread each")
    print("round  direct tok/s  daemon tok/s  daemon/direct")
    ratios = []
    with tempfile.TemporaryDirectory() as directory:
        direct, daemon = Direct(param), Daemon(param, directory)
        for warming in (direct, daemon):
            warming.rate(20)
        for number in range(arguments.rounds):
            # Who goes first alternates, so that a machine that slows down or speeds up favours neither.
            order = (direct, daemon) if number % 2 else (daemon, direct)
            rates = {one: one.rate(arguments.tokens) for one in order}
            ratios.append(rates[daemon] / rates[direct])
            print(f"{number:5}  {rates[direct]:12.1f}  {rates[daemon]:12.1f}  {ratios[-1]:13.3f}")
        daemon.stop()
    print(f"median daemon/direct {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()

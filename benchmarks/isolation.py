"""What a child process costs: the same runtime in one against in a thread of this process.

    python benchmarks/isolation.py [--rounds 9] [--tokens 20000]

The runtime says the same token again and again: as fast as it can, or one after each 100 us of work, in which it lets
other threads of Python go on as a library in C does. Each result is spelled as a line in both. Measured are tokens per
second and, for the slow one, the time of each token from the runtime to the receiver: its text is the time of its
birth. Rounds alternate, and the median of the round-by-round ratios is what counts on a noisy machine. Memory is the
proportional set size; recovery is from SIGSEGV to the next answer, of a model that takes no time to load.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import statistics
import sys
import time
from hashlib import sha256
from pathlib import Path

from msgspec import structs
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from zope.interface import implementer

from rkllm_twisted.backends import RuntimeModel
from rkllm_twisted.backends.isolated.backend import IsolatedBackend
from rkllm_twisted.backends.isolated.limits import Limits
from rkllm_twisted.backends.threaded import ThreadedBackend
from rkllm_twisted.interfaces import IResultReceiver, IRuntime
from rkllm_twisted.values import (
    CallState,
    Capability,
    Delivery,
    RKLLMInferParam,
    RKLLMInput,
    RKLLMParam,
    RKLLMResult,
)
from rkllm_twisted.wire.streams import Spelling

SLOW = 100
"""Microseconds of work for a token."""


def bytesPerMicrosecond():
    """How many bytes `sha256` takes in."""
    data, times = bytes(2**16), []
    for _ in range(200):
        began = time.perf_counter()
        sha256(data)
        times.append(time.perf_counter() - began)
    return int(len(data) / min(times) / 1e6)


BYTES = bytesPerMicrosecond()


@implementer(IRuntime)
class SpeakingRuntime:
    """Says as many tokens as ``max_new_tokens`` has, after as many microseconds of work each as the prompt has."""

    name = "speaking"
    capabilities = frozenset({Capability.PROMPT_INPUT, Capability.MAX_NEW_TOKENS_PER_RUN})

    def createDefaultParam(self):
        return RKLLMParam(model_path="none", max_context_len=4096)

    def checkParam(self, param):
        """Anything will do."""

    def init(self, param):
        return SpeakingModel()


class SpeakingModel(RuntimeModel):
    """See `SpeakingRuntime`."""

    def run(self, input, inferParam, onResult, delivery):
        if input.prompt_input == "die":
            ctypes.string_at(0)
        work = bytes(int(input.prompt_input) * BYTES)
        for _ in range(inferParam.max_new_tokens):
            if work:
                sha256(work)
            born = time.perf_counter_ns()
            onResult(RKLLMResult(text=f"{born:020}", token_id=1), CallState.RKLLM_RUN_NORMAL)
        onResult(RKLLMResult(), CallState.RKLLM_RUN_FINISH)
        return "length"

    def abort(self):
        """Nobody does."""

    def destroy(self):
        """Nothing is held."""


def makeBackend(options):
    """See `rkllm_twisted.backends.BackendMaker`."""
    return SpeakingRuntime()


@implementer(IResultReceiver)
class Measuring:
    """Spells each result as the daemon would and takes the time."""

    def __init__(self):
        self.latencies = []
        self.ended = Deferred()
        self._spell = Spelling(Delivery()).result

    def resultsReceived(self, results):
        for result, state in results:
            body = self._spell(result, state)
            # {"text":"00000012345678901234",...
            self.latencies.append(time.perf_counter_ns() - int(body[9:29]))

    def generationFinished(self, perf, reason):
        self.ended.callback(self)

    def generationFailed(self, failure):
        self.ended.errback(failure)


async def measure(model, interval, tokens):
    """Tokens per second, and the latencies in microseconds: half and 99 % are shorter."""
    receiver = Measuring()
    began = time.perf_counter()
    model.run(RKLLMInput(prompt_input=str(interval)), RKLLMInferParam(max_new_tokens=tokens), receiver, Delivery())
    await receiver.ended
    rate = tokens / (time.perf_counter() - began)
    latencies = sorted(receiver.latencies)
    assert len(latencies) == tokens
    return rate, latencies[tokens // 2] / 1000, latencies[tokens * 99 // 100] / 1000


def proportionalMB(pid):
    """Memory of a process, what is shared with others divided among them."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


async def recover(model):
    """Seconds from SIGSEGV to the next answer."""
    lost = Measuring()
    model.run(RKLLMInput(prompt_input="die"), RKLLMInferParam(max_new_tokens=1), lost, Delivery())
    await lost.ended.addErrback(lambda failure: None)
    began = time.perf_counter()
    await measure(model, 0, 1)
    return time.perf_counter() - began


def ratio(pairs):
    return statistics.median(isolated / inside for isolated, inside in pairs)


async def compareRates(models, arguments, work):
    """Print a round a line, and the medians."""
    what = f"{work} us of work" if work else "as fast as it can"
    print(f"{what}: isolated / in-process")
    rounds = []
    for number in range(arguments.rounds + 1):
        order = models if number % 2 else models[::-1]
        figures = {model: await measure(model, work, arguments.tokens) for model in order}
        if number:  # the first one warms up
            rounds.append(tuple(zip(*(figures[model] for model in models), strict=True)))
    for rates, half, most in rounds:
        line = f"  {rates[0]:7.0f} / {rates[1]:7.0f} tokens/s"
        if work:
            line += f"   p50 {half[0]:5.0f} / {half[1]:5.0f} us   p99 {most[0]:6.0f} / {most[1]:6.0f} us"
        print(line)
    rates, half, most = zip(*rounds, strict=True)
    print(f"  median ratio of tokens/s {ratio(rates):.2f}")
    each = statistics.median(1e6 / isolated - 1e6 / inside for isolated, inside in rates)
    print(f"  median added time per token {each:.1f} us")
    if work:
        for name, pairs in (("p50", half), ("p99", most)):
            added = statistics.median(isolated - inside for isolated, inside in pairs)
            print(f"  median added latency {name} {added:.0f} us, ratio {ratio(pairs):.2f}")


async def compare(arguments):
    runtime = SpeakingRuntime()
    inside = await ThreadedBackend(runtime, reactor).init(runtime.createDefaultParam())
    before = proportionalMB("self")
    limits = structs.replace(Limits(), crashes=1000)
    isolated = await IsolatedBackend(runtime, "speaking", reactor, limits).init(runtime.createDefaultParam())
    child = isolated._kept._child.pid
    python = platform.python_version()
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, Python {python}")
    await compareRates((isolated, inside), arguments, 0)
    await compareRates((isolated, inside), arguments, SLOW)
    print(f"memory (PSS): parent {before:.0f} MB before there was a child, child {proportionalMB(child):.0f} MB")
    times = sorted([await recover(isolated) for _ in range(arguments.rounds)])
    print(f"recovery after SIGSEGV: median {statistics.median(times):.3f} s, longest {times[-1]:.3f} s")
    await isolated.destroy()
    await inside.destroy()


def plugin(directory):
    """A package directory with the plugin that the child finds."""
    place = Path(directory, "twisted", "plugins")
    place.mkdir(parents=True)
    maker = "BackendMaker('speaking', '', 'isolation.makeBackend')"
    code = f"from rkllm_twisted.backends import BackendMaker\nspeaking = {maker}\n"
    (place / "speaking_plugin.py").write_text(code)
    sys.path += [str(directory), str(Path(__file__).parent)]


def main():
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=20000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        plugin(directory)
        done = ensureDeferred(compare(arguments))
        failures = []
        done.addErrback(failures.append).addBoth(lambda _: reactor.stop())
        reactor.run()
        for failure in failures:
            failure.raiseException()


if __name__ == "__main__":
    main()

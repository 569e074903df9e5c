"""What the daemon costs: 200 tokens through the socket against llama.cpp driven directly, time and peak memory.

    python -m benchmarks.llamacpp.tokens [--model smollm2] [--rounds 7] [--tokens 200] [--quick]

Directly is a loop over the C functions, sample and decode, that throws the tokens away. The daemon runs in a process of
its own and its client reads the socket and parses nothing. Both generate the same greedy answer to the same prompt, in
turns, each with one thread; the median of the round-by-round ratios is what counts on a noisy machine. Both times are
of decode: from the first token to the last, as the one who receives them sees it. The memory is the most that the
process ever had (VmHWM), the model in it. The CPU time is that of the process for the whole run; on a busy machine it
says more than the time does.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile

from benchmarks.llamacpp.sides import Daemon, Direct, machine, measured

PROMPT = "Tell me a long story about a fox."


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="3 rounds of 40 tokens")
    given = parser.parse_args()
    rounds, tokens = (3, 40) if given.quick else (given.rounds, given.tokens)
    print(machine())
    print("round  direct tok/s  daemon tok/s  daemon/direct: time  CPU time")
    ratios = []
    with tempfile.TemporaryDirectory() as directory:
        direct, daemon = Direct(given.model), Daemon(given.model, directory)
        prompt = direct.tokens(PROMPT)
        both: tuple[Direct | Daemon, ...] = (direct, daemon)
        for warming in both:
            warming.generate(prompt, 20)
        for number in range(rounds):
            # Who goes first alternates, so that a machine that slows down or speeds up favours neither.
            order = both if number % 2 else both[::-1]
            times = {one: measured(one, one.generate, prompt, tokens) for one in order}
            ratios.append([one / other for one, other in zip(times[daemon], times[direct], strict=True)])
            rates = [(tokens - 1) / times[one][0] for one in both]
            print(f"{number:5}  {rates[0]:12.1f}  {rates[1]:12.1f}  {ratios[-1][0]:19.3f}  {ratios[-1][1]:8.3f}")
        peaks = direct.peak(), daemon.peak()
        daemon.stop()
    print("median{:49.3f}{:10.3f}".format(*map(statistics.median, zip(*ratios, strict=True))))
    print(f"peak memory: direct {peaks[0]:.0f} MB, daemon {peaks[1]:.0f} MB, daemon/direct {peaks[1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()

"""What logits and hidden states cost: replies of the daemon against llama.cpp driven directly, time and peak memory.

    python -m benchmarks.llamacpp.tensors [--model smollm2] [--rounds 7] [--quick]

Logits are one row of the whole vocabulary, for a prompt of 8 tokens; hidden states are 1,000 rows, for one of 1,000
tokens. The daemon spells both as JSON and as base64. Directly, the rows are copied out of C's memory and nothing is
spelled. Every measurement has a process of its own, which has generated two tokens before, so that the weights are in
memory. The time is that of the computation and of all that comes after it, until the client has the line, which it does
not parse; the CPU time is that of the process in it, and says more on a busy machine. The memory is the most that the
process ever had (VmHWM), the model in it. The sides take turns; each figure is a median over the rounds, and a ratio
the median of the rounds' own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile

from benchmarks.llamacpp.sides import Daemon, Direct, machine, measured

LOGITS, HIDDEN = 2, 1
Figures = list[float]


class Measure:
    """One of the table's rows.

    Args:
        mode: Of the run.
        spelling: Of the tensors.
        rows: How many tokens the prompt has in hidden mode.
    """

    def __init__(self, mode: int, spelling: str, rows: int) -> None:
        self.mode = mode
        self.spelling = spelling
        self.name = f"{rows} hidden states" if mode == HIDDEN else "1 row of logits"
        self.prompt = list(range(1000, 1000 + (rows if mode == HIDDEN else 8)))

    def daemon(self, model: str) -> Figures:
        """Seconds, CPU seconds, MB and the bytes of the reply, through a daemon."""
        with tempfile.TemporaryDirectory() as directory:
            daemon = Daemon(model, directory)
            daemon.generate(self.prompt[:8], 2)
            rows = "all" if self.mode == HIDDEN else "last"
            times = measured(daemon, daemon.tensors, self.prompt, self.mode, rows, self.spelling)
            peak = daemon.peak()
            daemon.stop()
        return [*times, peak, daemon.replyLength]

    def direct(self, model: str) -> Figures:
        """Seconds, CPU seconds and MB in a process that does nothing else."""
        work = json.dumps([self.mode, self.prompt])
        command = [sys.executable, "-m", "benchmarks.llamacpp.tensors", "--model", model, "--direct", work]
        figures: Figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        return figures


def driveDirectly(model: str, mode: int, prompt: list[int]) -> None:
    """What the child process does."""
    direct = Direct(model)
    direct.generate(prompt[:8], 2)
    times = measured(direct, direct.hiddenStates if mode == HIDDEN else direct.logits, prompt)
    print(json.dumps([*times, direct.peak()]))


def compare(measure: Measure, model: str, rounds: int) -> str:
    """A row of the table."""
    pairs = []
    for number in range(rounds):
        # Who goes first alternates, so that a machine that slows down or speeds up favours neither.
        order = (measure.direct, measure.daemon) if number % 2 else (measure.daemon, measure.direct)
        done = {side.__name__: side(model) for side in order}
        pairs.append((done["direct"], done["daemon"]))
    sides = [[statistics.median(column) for column in zip(*side, strict=True)] for side in zip(*pairs, strict=True)]
    ratios = [statistics.median(daemon[what] / direct[what] for direct, daemon in pairs) for what in range(3)]
    cells = [f"{measure.name:19} {measure.spelling:6} {sides[1][3] / 1e6:8.2f}"]
    for what, unit in enumerate((1000, 1000, 1)):
        cells.append(f"{sides[0][what] * unit:8.1f} {sides[1][what] * unit:8.1f} {ratios[what]:5.2f}")
    return "  ".join(cells)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="one round, and 100 hidden states")
    parser.add_argument("--direct", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.direct is not None:
        driveDirectly(given.model, *json.loads(given.direct))
        return
    rounds, rows = (1, 100) if given.quick else (given.rounds, 1000)
    print(f"{machine()}; of each: direct, daemon, daemon/direct")
    print(f"{'':26} {'reply MB':>8}  {'time, ms':^23}  {'CPU time, ms':^23}  {'peak memory, MB':^23}")
    for mode in (LOGITS, HIDDEN):
        for spelling in ("json", "base64"):
            print(compare(Measure(mode, spelling, rows), given.model, rounds), flush=True)


if __name__ == "__main__":
    main()

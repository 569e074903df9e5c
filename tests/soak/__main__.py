"""A soak: many clients, all kinds of endings and dying backends at once. See `make soak`.

    python -m tests.soak [--requests 10000] [--clients 64] [--crashes 150] [--seed N]

Ends with the exit status 1 if a last line was lost or doubled, a client saw what is another's, or memory or descriptors
were not what they had been.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from benchmarks.servers import TWISTD, memory
from tests.soak.clients import Client, Report

PLUGIN = Path(__file__).parent / "plugin"
ENDINGS = (signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT, signal.SIGBUS)
SHARES = (0.2, 0.4, 0.6, 0.8)
"""The shares of the requests after which memory is measured; the first is what the end is compared with."""
GROWTH = 4.0
"""Megabytes that the daemon may have more at the end. A leak of 1 kB a request would be more in a run of 10000."""


class Daemon:
    """A daemon in a process of its own.

    Args:
        directory: For its socket and its log.
    """

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "s")
        self.log = directory / "log"
        self._directory = directory

    async def start(self) -> None:
        """Start it, with the model loaded."""
        options = ["--backend", "soaked", "--model", "any", "--listen", f"unix:{self.path}"]
        limits = ["--max-crashes", "1000000", "--max-queue", "1000", "--max-clients", "200"]
        paths = [str(PLUGIN), *filter(None, sys.path)]
        self._process = await asyncio.create_subprocess_exec(
            *(*TWISTD, f"--logfile={self.log}", "rkllm", *options, *limits),
            cwd=self._directory,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        self.pid = self._process.pid
        while not os.path.exists(self.path):
            if self._process.returncode is not None:
                raise SystemExit(f"the daemon has not started: {self.log.read_text()}")
            await asyncio.sleep(0.05)
        report = Report()
        await Client(self.path, "warm", Random(0), report).live(1, ["read"])
        if report.violations or self.child is None:
            raise SystemExit(f"the model is not loaded: {report.violations}; {self.log.read_text()}")

    @property
    def child(self) -> int | None:
        """The process of the runtime; None while there is none."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return int(children[0]) if children else None

    @property
    def descriptors(self) -> int:
        """How many it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    @property
    def megabytes(self) -> float:
        """Its resident memory, without that of the child."""
        return memory(self.pid)

    async def stop(self) -> int:
        """Stop it. Returns its exit status."""
        self._process.terminate()
        return await asyncio.wait_for(self._process.wait(), 60)


class Soak:
    """The whole.

    Args:
        daemon: What is soaked.
        given: The options.
    """

    def __init__(self, daemon: Daemon, given: argparse.Namespace) -> None:
        self.report = Report()
        self.faults: Counter[str] = Counter()
        self._daemon = daemon
        self._given = given
        self._random = Random(given.seed)
        self._megabytes: list[float] = []

    async def run(self) -> list[str]:
        """Run. Returns the lines of the result; what must not be is in `report.violations`."""
        began, before = time.monotonic(), self._daemon.descriptors
        count = self._given.clients
        shares = [self._given.requests // count + (n < self._given.requests % count) for n in range(count)]
        clients = [
            Client(
                self._daemon.path, f"m{n}x{self._random.getrandbits(32):x}", Random(self._random.random()), self.report
            )
            for n in range(count)
        ]
        others = [asyncio.create_task(self._crash()), asyncio.create_task(self._measure())]
        await asyncio.gather(*(client.live(share) for client, share in zip(clients, shares, strict=True)))
        for other in others:
            other.cancel()
        seconds = time.monotonic() - began
        await self._untilQuiet(before)
        after = self._daemon.descriptors
        self._megabytes.append(self._daemon.megabytes)
        self._checkLeaks(before, after)
        return self._result(seconds, before, after)

    async def _crash(self) -> None:
        """Kill the child, evenly over the requests, at a moment that nobody has chosen."""
        interval = self._given.requests / (self._given.crashes + 1)
        for number in range(self._given.crashes):
            while self.report.requests < interval * (number + 1):
                await asyncio.sleep(0.002)
            while (child := self._daemon.child) is None:
                await asyncio.sleep(0.002)
            await asyncio.sleep(self._random.uniform(0, 0.3))
            ending = self._random.choice(ENDINGS)
            try:
                os.kill(child, ending)
            except ProcessLookupError:
                continue
            self.faults[ending.name] += 1

    async def _measure(self) -> None:
        for share in SHARES:
            while self.report.requests < self._given.requests * share:
                await asyncio.sleep(0.01)
            self._megabytes.append(self._daemon.megabytes)

    async def _untilQuiet(self, before: int) -> None:
        """Until the daemon has noticed that all are gone and has a child again; 10 s at most."""
        end = time.monotonic() + 10
        while time.monotonic() < end and self._daemon.descriptors > before:
            await asyncio.sleep(0.05)

    def _checkLeaks(self, before: int, after: int) -> None:
        if after > before:
            self.report.violations.append(f"{before} descriptors before, {after} after")
        if self._grown > GROWTH:
            self.report.violations.append(f"the daemon has grown by {self._grown:.1f} MB")

    @property
    def _grown(self) -> float:
        return self._megabytes[-1] - self._megabytes[0]

    def _result(self, seconds: float, before: int, after: int) -> list[str]:
        report = self.report
        return [
            f"requests        {report.requests} by {self._given.clients} clients in {seconds:.1f} s",
            f"ways            {spelled(report.done)}",
            f"last lines      {report.endings.total()}: {spelled(report.endings)}",
            f"deaths          {self.faults.total()}: {spelled(self.faults)}",
            f"descriptors     {before} before, {after} after",
            f"memory          {', '.join(f'{size:.1f}' for size in self._megabytes)} MB, "
            f"{self._grown:+.1f} from a fifth on",
            f"violations      {len(report.violations)}",
        ]


def spelled(counter: Counter[str]) -> str:
    """A counter in words."""
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items()))


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--crashes", type=int, default=150, help="how often the backend's process is killed")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    return parser.parse_args(arguments)


async def soak(given: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Run it. Returns the lines of the result, and the violations."""
    with tempfile.TemporaryDirectory() as directory:
        daemon = Daemon(Path(directory))
        await daemon.start()
        run = Soak(daemon, given)
        try:
            lines = await run.run()
        finally:
            status = await daemon.stop()
        log = daemon.log.read_text(errors="replace")
        if status != -signal.SIGTERM:
            run.report.violations.append(f"the daemon ended with {status}")
        if "Traceback" in log:
            run.report.violations.append(f"in the log: {log[log.index('Traceback') :][:2000]}")
        return lines, run.report.violations


def main() -> int:
    """The command."""
    given = options()
    print(f"seed            {given.seed}")
    lines, violations = asyncio.run(soak(given))
    print("\n".join(lines + violations[:20]))
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())

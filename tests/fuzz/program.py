"""A fuzzer of the server's side of the wire.

It sends lines that are right, nearly right and not right at all to the server's protocol, over a transport and a clock
in memory and the scripted backend: several peers at a time, their bytes cut anywhere, with aborts, cancels,
half-closes, full buffers and disconnects in between. Then it reads the sent bytes with a reader of its own, and judges
what came back:

- nothing raises out of the protocol, nothing is logged as an error, no answer is -32603;
- every line is one JSON document: a response, a ``$/progress``, or an array of responses;
- once all has run out, each request with an id has had exactly one last line, and a notification none (W-LAST,
  W-NOTIFY), batches have had one array each (W-BATCH), and who had ended its writing is closed upon (W-HALFCLOSE);
- nothing is left to the clock, and a peer that comes afterwards is served as if nothing had been.

Run it for longer than the tests do::

    python -m tests.fuzz --seed 7 --lines 1000000

An episode is 200 lines to one server. When one goes wrong, the steps that are not needed for it are left out, the rest
is printed, and so is the command that plays this episode alone::

    python -m tests.fuzz --seed 7 --episode 311
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from dataclasses import dataclass

from twisted.logger import globalLogBeginner

from tests.fuzz.episodes import LINES, Episode, makeEpisode
from tests.fuzz.player import problemOf
from tests.fuzz.shortening import shortened


@dataclass
class Find:
    """An episode that went wrong."""

    seed: int
    number: int
    problem: str
    episode: Episode

    def __str__(self) -> str:
        steps = "\n".join(f"  {_shown(step)}" for step in self.episode.steps)
        return (
            f"{self.problem}\n\nwith Server(ScriptedBackend(clock, interval={self.episode.interval}), clock, "
            f"**{self.episode.options}) and these steps:\n{steps}\n\n"
            f"play it again: python -m tests.fuzz --seed {self.seed} --episode {self.number}"
        )


def _shown(step: object) -> str:
    text = repr(step)
    return text if len(text) < 1000 else f"{text[:600]} ... {text[-300:]} ({len(text)} characters)"


def fuzz(seed: int, lines: int, first: int = 0) -> Find | None:
    """Play episodes until that many lines have been sent, or one has gone wrong.

    Args:
        seed: Decides everything.
        lines: The least number of lines.
        first: The number of the first episode.
    """
    gc.collect()
    gc.freeze()  # each episode collects what it left, which is quick as long as that is all there is to look at
    try:
        number, sent = first, 0
        while sent < lines:
            episode = makeEpisode(seed, number)
            problem = problemOf(episode)
            if problem is not None:
                return _find(seed, number, problem, episode)
            sent += episode.lines
            number += 1
    finally:
        gc.unfreeze()
    return None


def _find(seed: int, number: int, problem: str, episode: Episode) -> Find:
    """With the steps that are needed for the same kind of problem."""
    kind = _kindOf(problem)
    short = shortened(episode, lambda shorter: _kindOf(problemOf(shorter) or "") == kind)
    return Find(seed, number, problemOf(short) or problem, short)


def _kindOf(problem: str) -> str:
    """What is the same in two descriptions of one problem: the rule, or the exception."""
    return problem.strip().splitlines()[-1].partition(":")[0] if "Traceback" in problem else problem.partition(":")[0]


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser("python -m tests.fuzz", description="Fuzz the server's side of the wire.")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="decides everything [the time]")
    parser.add_argument("--lines", type=int, default=100_000, help="how many lines to send, at least")
    parser.add_argument("--episode", type=int, help="play one episode alone")
    given = parser.parse_args(arguments)
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)  # finds are printed once
    began = time.monotonic()
    if given.episode is None:
        print(f"seed {given.seed}", flush=True)
        found = fuzz(given.seed, given.lines)
    else:
        found = fuzz(given.seed, 1, given.episode)
    if found is not None:
        sys.exit(str(found))
    lines = given.lines if given.episode is None else LINES
    print(f"{lines} lines, nothing found, {time.monotonic() - began:.1f} s")

"""Episodes: what some peers do to a server, made out of a seed as plain data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.fuzz.lines import LineMaker

LINES = 200
"""Of one episode."""
PEERS = 4
TIDY = (0, 1)
"""Every fourth peer and the one after it send only lines whose answer is beyond doubt: every line of theirs counts."""

Step = tuple[Any, ...]
"""``("send", peer, bytes)``, ``("pass", seconds)``, ``("half", peer)``, ``("gone", peer)``, ``("stall", peer)``,
``("read", peer)``; a peer connects with its first step."""


@dataclass
class Episode:
    """What happens, and to what server.

    Attributes:
        options: Of `Server`.
        interval: Seconds between two tokens.
        steps: In order.
        lines: How many lines are in the steps.
    """

    options: dict[str, int]
    interval: float
    steps: list[Step] = field(default_factory=list)
    lines: int = 0


def makeEpisode(seed: int, number: int, lines: int = LINES) -> Episode:
    """The episode of a number; the same for the same seed."""
    random = Random(f"{seed}/{number}")
    options = {"maxQueue": random.choice([64, 64, 4, 1])}
    if random.random() < 0.1:
        options["maxLine"] = random.choice([100, 1000, 65_000, 300_000])
    if random.random() < 0.1:
        options["maxClients"] = random.choice([1, 2])
    if random.random() < 0.3:
        options["maxBacklog"] = random.choice([1, 1000, 10_000])
    episode = Episode(options, random.choice([0, 0, 0.01, 1]))
    maker = LineMaker(random, number % 90 + 1)
    names = iter(range(1_000_000))
    peers = [next(names) for _ in range(random.randint(1, PEERS))]
    episode.steps.append(("send", peers[0], b'{"jsonrpc":"2.0","method":"rkllm.init","params":[{"model_path":"m"}]}\n'))
    while episode.lines < lines:
        place = random.randrange(len(peers))
        for step in _steps(random, maker, peers[place], episode):
            episode.steps.append(step)
            if step[0] in ("half", "gone"):
                peers[place] = next(names)
    return episode


def _steps(random: Random, maker: LineMaker, peer: int, episode: Episode) -> Iterator[Step]:
    kind = random.random()
    if kind < 0.16:
        yield ("pass", random.choice([0, 0, 0, episode.interval, episode.interval * 3, 1, 7, 1000]))
    elif kind < 0.18:
        yield (random.choice(["half", "gone"]), peer)
    elif kind < 0.21:
        yield (random.choice(["stall", "read"]), peer)
    else:
        count = random.choice([1] * 6 + [2, 3, 10])
        make = maker.tidyLine if peer % 4 in TIDY else maker.wildLine
        data = b"".join(make() for _ in range(count))
        episode.lines += count
        yield from (("send", peer, piece) for piece in _pieces(random, data) if piece)


def _pieces(random: Random, data: bytes) -> list[bytes]:
    """The data, whole or cut at random; small data may come byte by byte."""
    kind = random.random()
    if kind < 0.75:
        return [data]
    if kind < 0.8 and len(data) < 400:
        return [data[place : place + 1] for place in range(len(data))]
    cuts = sorted(random.randrange(len(data) + 1) for _ in range(random.choice([1, 1, 2, 5])))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]

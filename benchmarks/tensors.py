"""A reply with the logits of one token, 152 k numbers, against spelling them and nothing else."""

from __future__ import annotations

import time
from array import array

import msgspec

from benchmarks.building import VOCABULARY
from benchmarks.load import runRequest
from benchmarks.rounds import Rounds, Sample, takeTurns
from benchmarks.rows import Measurement, Row
from benchmarks.servers import Server
from benchmarks.stage import DAEMON, ISOLATED, Stage

ALONE, BASE64 = "alone", "base64"
LOGITS = 2
TIMES = 10


class Spelt:
    """A side: a server that is asked for one spelling, or no server at all.

    Args:
        name: Of the side.
        server: Who is asked; None if the numbers are only spelled, in this process.
        tensors: How they are spelled.
    """

    def __init__(self, name: str, server: Server | None, tensors: str = "json") -> None:
        self.name = name
        self.server = server
        self.tensors = tensors


def encoding() -> float:
    """Seconds for spelling a row, from the bytes that the library gives."""
    row = array("f", [3 * column % 512 / 16 for column in range(VOCABULARY)]).tobytes()
    began = time.perf_counter()
    msgspec.json.encode(array("f", row).tolist())
    return time.perf_counter() - began


def logits(stage: Stage) -> Rounds:
    """One token in logits mode, its last row, again and again. The prompt is in the cache from the second time on."""
    stage.built.pause(0)
    daemon, isolated = stage.server(DAEMON), stage.server(ISOLATED)
    sides = [Spelt(ALONE, None), Spelt(DAEMON, daemon), Spelt(BASE64, daemon, "base64")]
    sides += [Spelt(ISOLATED, isolated), Spelt(f"{ISOLATED} {BASE64}", isolated, "base64")]

    def measure(side: Spelt) -> Sample:
        if side.server is None:
            return sampleOf([encoding() for _ in range(TIMES)])
        request = runRequest(1, LOGITS, rows="last", tensors=side.tensors)
        done = [stage.load.run("stream", side.server.path, request) for _ in range(TIMES)]
        if any(each["tokens"] != 1 or each["last"] != 2 for each in done):
            raise RuntimeError(f"{side.name}: expected one token and a finish, got {done[0]}")
        return sampleOf([each["seconds"] for each in done])

    return takeTurns(sides, stage.rounds, measure)


def sampleOf(seconds: list[float]) -> Sample:
    """The median of some times, in milliseconds."""
    return Sample({"ms": 1000 * sorted(seconds)[len(seconds) // 2]})


TENSORS = (
    Measurement(
        "logits",
        f"{VOCABULARY} logits of one token, from the request to the last line; alone: the row spelled by msgspec",
        logits,
        (
            Row("152 k logits as JSON", "ms", "ms", DAEMON, ALONE, 1.5),
            Row("the same, isolated", "ms", "ms", ISOLATED, ALONE, 1.5),
            Row("152 k logits as base64, of JSON", "ms", "ms", BASE64, DAEMON, 0.3),
            Row("the same, isolated", "ms", "ms", f"{ISOLATED} {BASE64}", ISOLATED, 0.3),
        ),
    ),
)

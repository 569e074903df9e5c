"""Tokens from a callback of the library to a client, as fast as they come and one each 100 us."""

from __future__ import annotations

from functools import partial

from benchmarks.load import runRequest
from benchmarks.rounds import Rounds, Sample, takeTurns
from benchmarks.rows import Measurement, Row
from benchmarks.servers import Server
from benchmarks.stage import DAEMON, ISOLATED, TOKENS, Stage

COUNT = 50_000
PAUSE = 100
"""Microseconds before each token, where there is a pause."""
COUNT_WITH_PAUSE = 10_000


def stream(stage: Stage, pause: int, most: int) -> Rounds:
    """A stream that nothing else disturbs."""
    count = stage.number(most)
    stage.built.pause(pause)

    def measure(server: Server) -> Sample:
        before = server.seconds()
        done = stage.load.run("stream", server.path, runRequest(count))
        figures = {
            "rate": done["tokens"] / done["from_first"],
            "lost": count - done["tokens"],
            "cpu": 1e6 * (server.seconds() - before) / count,
            "p50": done["latency"][500],
            "p99": done["latency"][990],
        }
        return Sample(figures, done["latency"])

    return takeTurns(stage.sides(TOKENS, DAEMON, ISOLATED), stage.rounds, measure)


def besideStream(stage: Stage, pause: int) -> Rounds:
    """The calls of another client, of which each waits for the answer to the one before, while one streams."""
    stage.built.pause(pause)
    endless = runRequest(10**6 if pause == 0 else 10**5)

    def measure(server: Server) -> Sample:
        streaming = stage.load.start("stream", server.path, endless)
        done = stage.load.calls(server, 1, stage.seconds(1))
        isStreaming = streaming.poll() is None
        streaming.terminate()
        streaming.communicate()
        if not isStreaming:
            raise RuntimeError("the stream had ended before the calls had")
        return Sample({"p50": done["trip"][500], "p99": done["trip"][990]}, done["trip"])

    return takeTurns(stage.sides(DAEMON, ISOLATED), stage.rounds, measure)


STREAMS = (
    Measurement(
        "tokens",
        f"a stream of {COUNT} tokens without a pause",
        partial(stream, pause=0, most=COUNT),
        (
            Row("tokens per second, no pause", "rate", "/s", DAEMON, TOKENS, 0.53, isMost=False),
            Row("the same, isolated", "rate", "/s", ISOLATED, DAEMON, 0.5, isMost=False),
            Row("CPU per token", "cpu", "us", DAEMON, TOKENS),
            Row("the same, isolated", "cpu", "us", ISOLATED, DAEMON),
            Row("lost tokens", "lost", "", DAEMON, None, 0),
            Row("the same, isolated", "lost", "", ISOLATED, None, 0),
        ),
    ),
    Measurement(
        "latency",
        f"a stream of {COUNT_WITH_PAUSE} tokens, one each {PAUSE} us; from the callback to the client",
        partial(stream, pause=PAUSE, most=COUNT_WITH_PAUSE),
        (
            Row(f"added latency at {PAUSE} us, p50", "p50", "us", DAEMON, TOKENS, 1.2),
            Row("the same, isolated", "p50", "us", ISOLATED, TOKENS, 2.5),
            Row(f"added latency at {PAUSE} us, p99", "p99", "us", DAEMON, TOKENS),
            Row("the same, isolated", "p99", "us", ISOLATED, TOKENS),
            Row(f"CPU per token at {PAUSE} us", "cpu", "us", DAEMON, TOKENS),
            Row("the same, isolated", "cpu", "us", ISOLATED, TOKENS),
        ),
    ),
    Measurement(
        "beside",
        f"the calls of one client while another has a stream, a token each {PAUSE} us",
        partial(besideStream, pause=PAUSE),
        (
            Row("call while one streams, p99", "p99", "us", DAEMON, None, 1000),
            Row("the same, isolated", "p99", "us", ISOLATED, None, 1000),
        ),
    ),
    Measurement(
        "flood",
        "the same, the stream without a pause",
        partial(besideStream, pause=0),
        (
            Row("call while one streams without a pause, p99", "p99", "us", DAEMON, None, 1000),
            Row("the same, isolated", "p99", "us", ISOLATED, None, 1000),
        ),
    ),
)

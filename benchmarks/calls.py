"""The cheap call: one client on one core, fifty clients on another core than the server."""

from __future__ import annotations

from benchmarks.load import CALL
from benchmarks.rounds import Rounds, Sample, takeTurns
from benchmarks.rows import Measurement, Row
from benchmarks.servers import Server
from benchmarks.stage import AT_ONCE, BARE, DAEMON, ECHO, ISOLATED, Stage

CLIENTS = 50
IN_ONE_WRITE = 100


def oneClient(stage: Stage) -> Rounds:
    """One client and the server on the same core, so that no other core has to be woken."""

    def measure(server: Server) -> Sample:
        server.pin(stage.last)
        done = stage.load.on(stage.last).calls(server, 1, stage.seconds(1))
        server.pin(stage.everywhere)
        return Sample({"p50": done["trip"][500], "p99": done["trip"][990]}, done["trip"])

    return takeTurns(stage.sides(ECHO, BARE, AT_ONCE, DAEMON, ISOLATED), stage.rounds, measure)


def manyClients(stage: Stage) -> Rounds:
    """The server has a core and the clients have another."""

    def measure(server: Server) -> Sample:
        server.pin(stage.first)
        done = stage.load.on(stage.last).calls(server, CLIENTS, stage.seconds(1))
        server.pin(stage.everywhere)
        rate = done["answers"] / done["seconds"]
        return Sample({"cpu": 1e6 * done["cpu"] / done["answers"], "rate": rate}, done["trip"])

    return takeTurns(stage.sides(ECHO, BARE, AT_ONCE, DAEMON, ISOLATED), stage.rounds, measure)


def oneWrite(stage: Stage) -> Rounds:
    """A hundred requests in one write."""
    # Ids in flight may not repeat; a null id never is in flight.
    request = CALL.replace('"id":1', '"id":null')

    def measure(server: Server) -> Sample:
        done = stage.load.run("pipelined", server.path, IN_ONE_WRITE, request)
        return Sample({"answers": done["answers"], "each": 1e6 * done["seconds"] / IN_ONE_WRITE})

    return takeTurns(stage.sides(BARE, DAEMON), stage.rounds, measure)


CALLS = (
    Measurement(
        "one",
        "is_running again and again by one client, on the core of the server",
        oneClient,
        (Row("cheap call, round trip p50", "p50", "us", DAEMON, BARE, 0.9),),
    ),
    Measurement(
        "fifty",
        f"the same by {CLIENTS} clients, on another core than the server",
        manyClients,
        (
            Row(f"server CPU per call, {CLIENTS} clients", "cpu", "us", DAEMON, BARE, 0.95),
            Row(f"calls per second, {CLIENTS} clients", "rate", "/s", DAEMON, BARE, 1.2, isMost=False),
        ),
    ),
    Measurement(
        "pipelined",
        f"{IN_ONE_WRITE} requests in one write",
        oneWrite,
        (
            Row(f"answered of {IN_ONE_WRITE} in one write", "answers", "", DAEMON, None, IN_ONE_WRITE, isMost=False),
            Row("time of each of them", "each", "us", DAEMON, BARE),
        ),
    ),
)

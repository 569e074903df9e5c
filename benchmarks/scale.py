"""Growth: the cost of a call with more and more clients, idle connections and waiting requests; many readers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from benchmarks import servers
from benchmarks.client import Client
from benchmarks.load import runRequest
from benchmarks.rounds import Rounds, Sample, takeTurns
from benchmarks.rows import Measurement, Row
from benchmarks.servers import Server, memory
from benchmarks.stage import DAEMON, Stage

SIZES = (1, 10, 100, 1000)
WAITING = (0, *SIZES)
FLAT = 1.2
"""What counts as flat: a thousand connections take more of the processor's caches than one, whoever holds them."""
MEMBERS = 100
"""The most connections between which the waiting requests are divided."""
FOREVER = 60_000_000
"""Microseconds before the token of a stream behind which others wait."""
READERS, SLOW = 100, 10
TOKENS_EACH = 2000


class Size:
    """A side: so many of something."""

    def __init__(self, count: int) -> None:
        self.name = str(count)
        self.count = count


def callCost(stage: Stage, server: Server, clients: int) -> Sample:
    """The CPU time of a call, in microseconds."""
    server.pin(stage.first)
    done = stage.load.on(stage.last).calls(server, clients, stage.seconds(0.5))
    server.pin(stage.everywhere)
    return Sample({"cpu": 1e6 * done["cpu"] / done["answers"]}, done["trip"])


def clients(stage: Stage) -> Rounds:
    """So many clients ask, each as soon as it has its answer."""
    server = stage.server(DAEMON)
    return takeTurns(map(Size, SIZES), stage.rounds, lambda size: callCost(stage, server, size.count))


def idle(stage: Stage) -> Rounds:
    """One client asks, and so many are connected and do not."""
    server = stage.server(DAEMON)

    def measure(size: Size) -> Sample:
        with ExitStack() as stack:
            for _ in range(size.count):
                stack.enter_context(Client(server.path)).ask("rkllm.is_running", None)
            return callCost(stage, server, 1)

    return takeTurns(map(Size, SIZES), stage.rounds, measure)


def queue(stage: Stage) -> Rounds:
    """One client asks while one generation runs and so many wait for their turn."""
    server = stage.server(DAEMON)
    stage.built.pause(FOREVER)

    def measure(size: Size) -> Sample:
        before = server.seconds()
        with queued(server, size.count):
            each = 1e6 * (server.seconds() - before) / (size.count + 1)
            sample = callCost(stage, server, 1)
        sample.figures.update(each=each)
        return sample

    return takeTurns(map(Size, WAITING), stage.rounds, measure)


@contextmanager
def queued(server: Server, count: int) -> Iterator[None]:
    """A generation runs and ``count`` wait, divided between at most `MEMBERS` connections, until the context ends."""
    with ExitStack() as stack:
        watcher = stack.enter_context(Client(server.path))
        members = [stack.enter_context(Client(server.path)) for _ in range(min(count + 1, MEMBERS))]
        for number in range(count + 1):
            member = members[number % len(members)]
            member.send(runRequest(1).replace('"id":1', f'"id":{number}'))
        waitFor(watcher, lambda waiting, isRunning: isRunning and waiting == count)
        yield
        for member in members:
            member.close()
        waitFor(watcher, lambda waiting, isRunning: not isRunning and not waiting)


def waitFor(watcher: Client, isThere: Callable[[int, bool], bool]) -> None:
    """Ask for the state until it is as wanted."""
    while True:
        waiting = watcher.ask("server.status")["result"]["queue"]["length"]
        if isThere(waiting, watcher.ask("rkllm.is_running", None)["result"]["is_running"]):
            return


def waiting(stage: Stage) -> Rounds:
    """So many wait for their turn. Every turn has a new daemon, which has no memory left over from others."""
    stage.built.pause(FOREVER)

    def measure(size: Size) -> Sample:
        server = servers.daemon(stage.built, stage.directory, "none", "waiting")
        try:
            servers.loadModel(server, stage.built)
            with queued(server, MEMBERS):
                pass  # what the connections take, and what is needed once, is there from now on
            before = memory(server.pid)
            with queued(server, size.count):
                return Sample({"room": 1024 * (memory(server.pid) - before) / size.count})
        finally:
            server.stop()

    return takeTurns([Size(SIZES[-1])], stage.rounds, measure)


def readers(stage: Stage) -> Rounds:
    """A hundred clients read a stream each; of them none or ten are slow. Every turn has a new daemon."""
    stage.built.pause(0)
    tokens = stage.number(TOKENS_EACH)

    def measure(size: Size) -> Sample:
        server = servers.daemon(stage.built, stage.directory, "none", "readers")
        try:
            servers.loadModel(server, stage.built)
            return readBy(stage, server, READERS, size.count, tokens)
        finally:
            server.stop()

    return takeTurns([Size(0), Size(SLOW)], stage.rounds, measure)


def readBy(stage: Stage, server: Server, count: int, slow: int, tokens: int) -> Sample:
    """The figures of so many readers."""
    idle, before = memory(server.pid), server.seconds()
    done = stage.load.run("readers", server.path, count, slow, runRequest(tokens))
    fast = done["fast"]
    figures = {
        "finished": fast["finished"] + done["slow"]["finished"],
        "seconds": fast["seconds"] / (count - slow),
        "cpu": 1e6 * (server.seconds() - before) / (tokens * count),
        "room": memory(server.pid, "VmHWM") - idle,
    }
    return Sample(figures)


def flat(title: str, figure: str, small: int) -> Row:
    """The CPU time of the largest size against that of a small one."""
    return Row(title, figure, "us", str(SIZES[-1]), str(small), FLAT)


SCALE = (
    Measurement(
        "clients",
        "CPU of a call, by the number of clients that ask",
        clients,
        (flat("CPU per call, 1000 clients against 1", "cpu", 1), flat("the same, against 100", "cpu", 100)),
    ),
    Measurement(
        "connections",
        "CPU of a call, by the number of connections that do nothing",
        idle,
        (flat("CPU per call, 1000 idle connections against 1", "cpu", 1),),
    ),
    Measurement(
        "queue",
        "CPU of a call, by the number of requests that wait; what it costs that one waits",
        queue,
        (
            flat("CPU per call, 1000 waiting requests against 0", "cpu", 0),
            flat("CPU per waiting request, 1000 against 100", "each", 100),
        ),
    ),
    Measurement(
        "waiting",
        f"the memory of {SIZES[-1]} requests that wait for their turn, each with a prompt of a letter",
        waiting,
        (Row(f"resident memory of each of {SIZES[-1]} that wait", "room", "kB", str(SIZES[-1])),),
    ),
    Measurement(
        "readers",
        f"{READERS} clients with a stream of {TOKENS_EACH} tokens each; of them {SLOW} are slow, or none",
        readers,
        (
            Row(f"seconds for each of the fast, {SLOW} slow against none", "seconds", "s", str(SLOW), "0"),
            Row(f"CPU per token, {SLOW} slow against none", "cpu", "us", str(SLOW), "0"),
            Row("resident memory for all of them", "room", "MB", "0"),
            Row(f"the same, {SLOW} slow", "room", "MB", str(SLOW)),
        ),
    ),
)

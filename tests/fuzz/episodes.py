"""Episodes: what some peers do to a server, made out of a seed as plain data, played, and made shorter."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.python.failure import Failure

from rkllm_twisted.backends.scripted import ScriptedBackend
from rkllm_twisted.server import ServerFactory
from rkllm_twisted.testing.peers import Peer, Server
from tests.fuzz.judging import Found, Judge
from tests.fuzz.lines import LineMaker

LINES = 200
"""Of one episode."""
PEERS = 4
TIDY = (0, 1)
"""Every fourth peer and the one after it send only lines whose answer is beyond doubt: every line of theirs counts."""
PATIENCE = 100_000
"""How many steps of the clock an episode may need to run out."""
HAS_BACKLOG_LIMIT = "maxBacklog" in inspect.signature(ServerFactory).parameters

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
    if HAS_BACKLOG_LIMIT and random.random() < 0.3:
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


class StrictClock(Clock):
    """A clock that refuses what a reactor refuses."""

    def callLater(self, when: float, what: Callable[..., Any], *args: Any, **kw: Any) -> Any:
        """See `Clock`."""
        if not 0 <= when < float("inf"):
            raise ValueError(f"{when} s is no delay")
        return super().callLater(when, what, *args, **kw)


@dataclass
class Seen:
    """One peer of an episode, and what it sent."""

    peer: Peer
    sent: bytearray = field(default_factory=bytearray)
    unread: list[bytes | None] = field(default_factory=list)
    """What the server has not read yet; None is the end of what it sends."""
    hasEnded: bool = False
    """It sends nothing more."""
    isGone: bool = False
    atEnd: int = 0
    """How much it had received when it went."""


class Player:
    """Plays an episode and judges it.

    Args:
        episode: What is played.
    """

    def __init__(self, episode: Episode) -> None:
        self._episode = episode
        self._clock = StrictClock()
        backend = ScriptedBackend(self._clock, interval=episode.interval)
        self._server = Server(backend, self._clock, **episode.options)
        self._seen: dict[int, Seen] = {}

    def play(self) -> None:
        """Raise `Found` if the server breaks a rule, and whatever it raises itself."""
        for step in self._episode.steps:
            self._step(*step)
            self._closeClosed()
        self._runOut()
        for seen in self._seen.values():
            self._endSending(seen)
            self._closeClosed()
        self._runOut()
        for seen in self._seen.values():
            self._read(seen)
        self._runOut()
        for seen in self._seen.values():
            self._judge(seen)
        for seen in self._seen.values():
            self._leave(seen)
        self._runOut()
        self._serveAnother()

    def _step(self, kind: str, *arguments: Any) -> None:
        if kind == "pass":
            self._clock.advance(arguments[0])
            return
        seen = self._seen.get(arguments[0])
        if seen is None:
            seen = self._seen[arguments[0]] = Seen(self._server.connect(uid=arguments[0] % 2))
        if kind == "gone":
            self._leave(seen)
        elif not seen.isGone and not seen.hasEnded:
            getattr(self, f"_{kind}")(seen, *arguments[1:])

    def _send(self, seen: Seen, data: bytes) -> None:
        seen.sent += data
        seen.unread.append(data)
        self._deliver(seen)

    def _half(self, seen: Seen) -> None:
        seen.hasEnded = True
        seen.sent += b"\n"
        seen.unread.append(None)
        self._deliver(seen)

    def _deliver(self, seen: Seen) -> None:
        """Give the server what it has not read, unless it has paused to read."""
        while seen.unread and not seen.isGone and seen.peer.transport.producerState == "producing":
            data = seen.unread.pop(0)
            if data is None:
                seen.peer.finishWriting()
            else:
                seen.peer.send(data)

    def _stall(self, seen: Seen) -> None:
        """It does not read: a transport whose buffer is full tells its producer so."""
        if seen.peer.transport.producer is not None:
            seen.peer.transport.producer.pauseProducing()

    def _read(self, seen: Seen) -> None:
        """It has read everything."""
        if seen.peer.transport.producer is not None:
            seen.peer.transport.producer.resumeProducing()
        self._deliver(seen)

    def _leave(self, seen: Seen) -> None:
        if not seen.isGone:
            seen.isGone = True
            seen.atEnd = len(seen.peer.transport.value())
            if seen.peer.transport.producer is not None:
                seen.peer.transport.producer.stopProducing()
            seen.peer.protocol.connectionLost(Failure(ConnectionDone()))

    def _closeClosed(self) -> None:
        """What the server has closed is closed."""
        for seen in self._seen.values():
            if seen.peer.transport.disconnecting or seen.peer.transport.aborting:
                self._leave(seen)

    def _endSending(self, seen: Seen) -> None:
        """It reads all, and ends its last line, whatever that is."""
        while not seen.isGone and seen.unread:
            self._read(seen)
        if not seen.isGone and not seen.hasEnded:
            self._read(seen)
            self._send(seen, b"\n")

    def _runOut(self) -> None:
        """Let everything happen that is still to happen."""
        for _ in range(PATIENCE):
            times = [call.getTime() for call in self._clock.getDelayedCalls()]
            if not times:
                return
            self._clock.advance(max(0, min(times) - self._clock.seconds()))
            self._closeClosed()
        raise Found(f"calls of the clock never end: {self._clock.getDelayedCalls()[:3]}")

    def _judge(self, seen: Seen) -> None:
        transport = seen.peer.transport
        received = transport.value()
        isRefused = transport.writeClosed
        if seen.hasEnded and not transport.disconnecting and not isRefused and not seen.isGone:
            raise Found("W-HALFCLOSE: the server does not close after the last answer")
        if seen.isGone and len(received) > seen.atEnd:
            raise Found("W-GONE: something was written after the connection was lost")
        wasHeard = (not seen.isGone or (seen.hasEnded and transport.disconnecting)) and not isRefused
        Judge(bytes(seen.sent), received).judge(wasHeard, unasked=1 if isRefused else 0)

    def _serveAnother(self) -> None:
        """A peer that comes afterwards finds a server that works."""
        peer = self._server.connect()
        answers = []
        for id, (method, *params) in enumerate(
            [("rkllm.init", {"model_path": "any"}), ("rkllm.run", {"prompt_input": "one two"}), ("rkllm.is_running",)]
        ):
            peer.send({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
            self._runOut()
            answers += peer.received()
        if not _areAsExpected(answers):
            raise Found(f"the next peer is not served: {answers}")
        peer.disconnect()
        self._runOut()


def _areAsExpected(answers: list[Any]) -> bool:
    if [answer["id"] for answer in answers] != [0, 1, 1, 1, 2] or any("error" in answer for answer in answers):
        return False
    loaded, one, two, end, isRunning = [answer["result"] for answer in answers]
    return bool(
        loaded["success"]
        and (one["text"], two["text"], end["finish_reason"]) == ("one", " two", "stop")
        and isRunning["is_running"] is False
    )


@contextmanager
def loggedErrors() -> Iterator[list[Any]]:
    """What is logged as an error meanwhile."""
    errors: list[Any] = []

    def observe(event: Any) -> None:
        if event["log_level"] is not None and event["log_level"] >= LogLevel.error:
            failure = event.get("log_failure")
            errors.append(failure.getTraceback() if failure is not None else event.get("log_format"))

    globalLogPublisher.addObserver(observe)
    try:
        yield errors
    finally:
        globalLogPublisher.removeObserver(observe)


def problemOf(episode: Episode) -> str | None:
    """What goes wrong in an episode; None if nothing does."""
    with loggedErrors() as errors:
        problem = None
        try:
            Player(episode).play()
        except Found as found:
            problem = str(found)
        except Exception:  # noqa: BLE001  # whatever comes out of the server is a find
            problem = "raised out of the protocol:\n" + Failure().getTraceback()
        gc.collect()  # a failure that nobody handled is logged when its Deferred dies
    return f"logged as an error:\n{errors[0]}" if errors else problem


def shortened(episode: Episode, isStillWrong: Callable[[Episode], object], tries: int = 4000) -> Episode:
    """The episode with everything left out that can be while it is still wrong: steps, lines, bytes."""
    budget = iter(range(tries))

    def isWrong(steps: list[Step]) -> bool:
        return next(budget, None) is not None and bool(isStillWrong(replace(episode, steps=steps)))

    steps = _without(episode.steps, isWrong)
    inLines = [part for step in _joined(steps) for part in _linesOf(step)]
    if isWrong(inLines):
        steps = _without(inLines, isWrong)
    for place, step in enumerate(steps):
        if step[0] == "send":
            rebuilt = partial(_withData, steps, place)
            steps = rebuilt(_without(step[2], lambda data, rebuilt=rebuilt: isWrong(rebuilt(data))))  # type: ignore[misc]
    return replace(episode, steps=steps)


def _without(whole: Any, isWrong: Callable[[Any], bool]) -> Any:
    """A list or bytes without what is not needed, in ever smaller parts."""
    size = len(whole) // 2
    while size:
        place = 0
        while place < len(whole):
            rest = whole[:place] + whole[place + size :]
            if isWrong(rest):
                whole = rest
            else:
                place += size
        size //= 2
    return whole


def _joined(steps: list[Step]) -> list[Step]:
    """With the pieces put together that were sent one after the other."""
    joined: list[Step] = []
    for step in steps:
        if step[0] == "send" and joined and joined[-1][:2] == step[:2]:
            joined[-1] = (*step[:2], joined[-1][2] + step[2])
        else:
            joined.append(step)
    return joined


def _linesOf(step: Step) -> list[Step]:
    return [(*step[:2], line) for line in step[2].splitlines(keepends=True)] if step[0] == "send" else [step]


def _withData(steps: list[Step], place: int, data: bytes) -> list[Step]:
    return [*steps[:place], (*steps[place][:2], data), *steps[place + 1 :]]

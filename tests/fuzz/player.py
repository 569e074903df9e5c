"""Plays an episode to a server in memory, and judges what comes of it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from rkllm_twisted.backends.scripted import ScriptedBackend
from rkllm_twisted.testing.guard import loggedErrors
from rkllm_twisted.testing.peers import Peer, Server
from tests.fuzz.episodes import Episode
from tests.fuzz.judging import Found, Judge

PATIENCE = 100_000
"""How many steps of the clock an episode may need to run out."""


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
    return f"logged as an error:\n{errors[0].getTraceback()}" if errors else problem


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

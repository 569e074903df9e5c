"""Plays conversations with the server, line by line; tests/transcripts/README.md has the notation."""

import re

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from rkllm_twisted.backends.scripted import ScriptedBackend
from rkllm_twisted.testing.peers import Server

OTHER_USERS = ("x", "y", "z")
MEASURED = {"prefill_time_ms", "generate_time_ms", "memory_usage_mb"}
ANYTHING = "…"


class Transcript:
    """A conversation that is played with a server.

    Args:
        text: The conversation.
        server: The server.
    """

    def __init__(self, text, server):
        self._server = server
        self._peers = {}
        self._waiting = {}
        self._lines = text.splitlines()

    async def play(self):
        for number, line in enumerate(self._lines, 1):
            step = re.match(r"([a-z]?)(-->|<--|--\||--x|<-\||~~~|\$)\s?(.*)", line)
            if step:
                await self._step(*step.groups(), f"line {number}")
            else:
                assert not line or line.startswith("#"), f"line {number}: {line!r} is no step"
        await self.ended()
        self._collect()
        assert not any(self._waiting.values()), f"came and was not expected: {self._waiting}"

    async def _step(self, name, kind, rest, where):
        if kind == "$":
            self.command(rest)
            return
        peer = self._peer(name)
        if kind == "-->":
            peer.send(rest.encode() + b"\n")
        elif kind == "--|":
            peer.finishWriting()
        elif kind == "--x":
            peer.disconnect()
        elif kind == "<-|":
            assert peer.transport.disconnecting, f"{where}: the connection is open"
        elif kind == "<--":
            await self._expect(name, rest, where)
        self._collect(float(rest) if kind == "~~~" else 0)

    async def _expect(self, name, rest, where):
        while not self._waiting[name]:
            assert await self.arrival(name), f"{where}: nothing came, expected {rest}"
            self._collect()
        came = self._waiting[name].pop(0)
        assert self.agrees(msgspec.json.decode(rest), came), f"{where}: {msgspec.json.encode(came).decode()} came"

    def _peer(self, name):
        if name not in self._peers:
            self._peers[name] = self._server.connect(uid=1000 if name in OTHER_USERS else 0)
            self._waiting[name] = []
        return self._peers[name]

    def _collect(self, seconds=0):
        for name, peer in self._peers.items():
            self._waiting[name] += peer.received(seconds)
            seconds = 0

    # What a backend that takes its time does otherwise

    async def arrival(self, name):
        """Wait until more has come for a peer; false if nothing will. A backend in memory has said all that is due."""
        return False

    async def ended(self):
        """Wait until nothing more can come."""

    def agrees(self, expected, came):
        """Whether a line is the one that was expected."""
        return expected == came

    def command(self, line):
        """Run a command in the daemon's directory."""
        raise AssertionError(f"a conversation in memory has no directory for {line!r}")


class WithGaps(Transcript):
    """A transcript that leaves out with … what does not matter, and does not look at what was measured."""

    def agrees(self, expected, came):
        return agrees(expected, came)


def agrees(expected, came):
    """Whether two JSON values are the same, but for what was measured and for what … stands for."""
    if expected == ANYTHING:
        return True
    if isinstance(expected, dict) and isinstance(came, dict):
        return expected.keys() == came.keys() and all(
            name in MEASURED or agrees(expected[name], came[name]) for name in expected
        )
    if isinstance(expected, list) and isinstance(came, list):
        return len(expected) == len(came) and all(map(agrees, expected, came))
    return type(expected) is type(came) and expected == came


def playInMemory(text, kind=Transcript):
    """Play a conversation with the backend in memory, which needs no waiting."""
    pairs = optionsOf(text)
    clock = Clock()
    backend = ScriptedBackend(clock, interval=float(pairs.pop("interval", 0)))
    server = Server(backend, clock, **{name: int(value) for name, value in pairs.items()})
    played = []
    Deferred.fromCoroutine(kind(text, server).play()).addBoth(played.append)
    [outcome] = played
    if outcome is not None:
        outcome.raiseException()


def optionsOf(text, key="Options"):
    """The pairs of a line such as ``# Options: maxQueue=1``, as texts."""
    found = re.search(rf"^# {key}: (.*)$", text, re.MULTILINE)
    return dict(pair.split("=", 1) for pair in found[1].split() if "=" in pair) if found else {}

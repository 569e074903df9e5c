"""Every transcript in tests/transcripts."""

import re
from pathlib import Path

import msgspec
import pytest
from twisted.internet.task import Clock

from rkllm_twisted.backends.scripted import ScriptedBackend
from rkllm_twisted.testing.peers import Server

OTHER_USERS = ("x", "y", "z")
TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


class Transcript:
    """Plays one file."""

    def __init__(self, text):
        found = re.search(r"^# Options: (.*)$", text, re.MULTILINE)
        pairs = dict(pair.split("=") for pair in found[1].split()) if found else {}
        clock = Clock()
        backend = ScriptedBackend(clock, interval=float(pairs.pop("interval", 0)))
        self._server = Server(backend, clock, **{name: int(value) for name, value in pairs.items()})
        self._peers = {}
        self._waiting = {}
        self._lines = text.splitlines()

    def play(self):
        for number, line in enumerate(self._lines, 1):
            step = re.match(r"([a-z]?)(-->|<--|--\||--x|<-\||~~~)\s?(.*)", line)
            if step:
                self._step(*step.groups(), f"line {number}")
            else:
                assert not line or line.startswith("#"), f"line {number}: {line!r} is no step"
        assert not any(self._waiting.values()), f"came and was not expected: {self._waiting}"

    def _step(self, name, kind, rest, where):
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
            self._expect(name, rest, where)
        self._collect(float(rest) if kind == "~~~" else 0)

    def _expect(self, name, rest, where):
        assert self._waiting[name], f"{where}: nothing came, expected {rest}"
        came = self._waiting[name].pop(0)
        assert came == msgspec.json.decode(rest), f"{where}: {msgspec.json.encode(came).decode()} came"

    def _peer(self, name):
        if name not in self._peers:
            self._peers[name] = self._server.connect(uid=1000 if name in OTHER_USERS else 0)
            self._waiting[name] = []
        return self._peers[name]

    def _collect(self, seconds):
        for name, peer in self._peers.items():
            self._waiting[name] += peer.received(seconds)
            seconds = 0


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path):
    Transcript(path.read_text()).play()


def test_transcript_that_is_wrong_fails():
    for wrong in ('<-- {"a":1}', '--> {"jsonrpc":"2.0","id":1,"method":"rkllm.is_running"}', "what is this", "<-|"):
        with pytest.raises(AssertionError):
            Transcript(wrong).play()

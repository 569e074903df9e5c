"""Every transcript in tests/transcripts."""

from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from rkllm_twisted.backends.scripted import ScriptedBackend
from rkllm_twisted.testing.peers import Server
from tests.playing import Transcript, optionsOf

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


def play(text):
    """With the backend in memory, which needs no waiting."""
    pairs = optionsOf(text)
    clock = Clock()
    backend = ScriptedBackend(clock, interval=float(pairs.pop("interval", 0)))
    server = Server(backend, clock, **{name: int(value) for name, value in pairs.items()})
    played = []
    Deferred.fromCoroutine(Transcript(text, server).play()).addBoth(played.append)
    [outcome] = played
    if outcome is not None:
        outcome.raiseException()


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path):
    play(path.read_text())


def test_transcript_that_is_wrong_fails():
    asked = '--> {"jsonrpc":"2.0","id":1,"method":"rkllm.is_running"}'
    for wrong in ('<-- {"a":1}', asked, f'{asked}\n<-- {{"jsonrpc":"2.0"}}', "what is this", "<-|", "$ true"):
        with pytest.raises(AssertionError):
            play(wrong)

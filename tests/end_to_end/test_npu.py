"""The daemon on the vendor's library, or rather on its stand-in: every transcript in tests/transcripts/npu."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.standins import Standin, needsCompiler, overheard, standin

pytestmark = needsCompiler

TRANSCRIPTS = sorted((Path(__file__).parent.parent / "transcripts" / "npu").glob("*.txt"))
ANY = "$ANY"


class Transcript:
    """Plays one file to a daemon.

    Args:
        text: The file.
        connect: Connects one more peer to the daemon.
        library: The stand-in that the daemon has.
        directory: Where files may be made; the file calls it $DIR.
    """

    def __init__(self, text, connect, library: Standin, directory):
        self._connect = connect
        self._library = library
        self._directory = directory
        self._lines = text.splitlines()
        self._peers = {}

    def play(self):
        for number, line in enumerate(self._lines, 1):
            step = re.match(r"([a-z]?)(-->|<--|!!!)\s?(.*)", line)
            if step:
                self._step(*step.groups(), f"line {number}")
            else:
                assert not line or line.startswith("#"), f"line {number}: {line!r} is no step"
        for peer in self._peers.values():
            peer.finishWriting()
            assert peer.file.read() == b"", "came and was not expected"
            peer.close()

    def _step(self, name, kind, rest, where):
        rest = rest.replace("$DIR", str(self._directory)).replace("$MODEL", self._library.model)
        if kind == "!!!":
            self._library.script(rest)
            return
        if name not in self._peers:
            self._peers[name] = self._connect()
        peer = self._peers[name]
        if kind == "-->":
            peer.socket.sendall(rest.encode() + b"\n")
        else:
            came = peer.receive()
            assert matches(came, json.loads(rest)), f"{where}: {json.dumps(came, ensure_ascii=False)} came"


def matches(came, expected):
    """Whether they are equal, but for what the transcript does not say."""
    if expected == ANY:
        return True
    if isinstance(expected, dict) and isinstance(came, dict):
        return came.keys() == expected.keys() and all(matches(came[name], expected[name]) for name in expected)
    if isinstance(expected, list) and isinstance(came, list):
        return len(came) == len(expected) and all(map(matches, came, expected))
    return came == expected and type(came) is type(expected)


@pytest.fixture
def library(tmp_path, monkeypatch):
    """The stand-in; the daemon inherits the variables that script it."""
    yield from overheard(tmp_path, monkeypatch)


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path, daemon, library, tmp_path):
    text = path.read_text()
    family = re.search(r"^# Library: (.*)$", text, re.MULTILINE)[1]
    (tmp_path / "lora.rkllm").write_text("any")
    server = daemon("--backend", f"rkllm:library={standin(family)}")
    Transcript(text, server.connect, library, tmp_path).play()
    server.stop()
    assert "Traceback" not in "".join(server.log)
    assert library.calls()[-1] == "rkllm_destroy"  # whatever was loaded, the daemon has freed it


def test_transcript_that_is_wrong_fails(daemon, library, tmp_path):
    server = daemon("--backend", f"rkllm:library={standin('1.3')}")
    for wrong in (
        '--> {"jsonrpc":"2.0","id":1,"method":"rkllm.is_running"}\n<-- {"jsonrpc":"2.0","id":1,"result":1}',
        '--> {"jsonrpc":"2.0","id":1,"method":"rkllm.is_running"}',
        "what is this",
    ):
        with pytest.raises(AssertionError):
            Transcript(wrong, server.connect, library, tmp_path).play()


def test_every_function_is_in_a_transcript():
    methods = set(re.findall(r'"method":"(rkllm\.\w+)"', "".join(path.read_text() for path in TRANSCRIPTS)))
    table = (Path(__file__).parent.parent.parent / "docs/reference/wire.md").read_text()
    assert methods == set(re.findall(r"^\| `(rkllm\.\w+)` \|", table, re.MULTILINE))

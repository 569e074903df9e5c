"""Every transcript in tests/transcripts."""

from pathlib import Path

import pytest

from tests.playing import playInMemory

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path):
    playInMemory(path.read_text())


def test_transcript_that_is_wrong_fails():
    asked = '--> {"jsonrpc":"2.0","id":1,"method":"rkllm.is_running"}'
    for wrong in ('<-- {"a":1}', asked, f'{asked}\n<-- {{"jsonrpc":"2.0"}}', "what is this", "<-|", "$ true"):
        with pytest.raises(AssertionError):
            playInMemory(wrong)

"""The recording of the README: how it is made, and that it is one of this program."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from scripts.recording import COLUMNS, Screen, record, svg

COMMITTED = Path(__file__).parent.parent / "docs/recording.svg"
TEXT = "{http://www.w3.org/2000/svg}text"


def shownAtTheEnd(picture):
    """The lines that are seen without animation."""
    return [text.text for text in ElementTree.fromstring(picture).iter(TEXT) if text.get("visibility") != "hidden"]


def test_program_in_a_terminal():
    commands = ["twistd rkllm --backend scripted --model any", 'rkllm run "one <two> three"']
    shown = shownAtTheEnd(svg(*record(commands)))
    assert shown == [f"$ {commands[0]}", f"$ {commands[1]}", "one <two> three", "$ "]


def test_command_that_fails():
    with pytest.raises(SystemExit, match="ended with 3"):
        record(["exit 3"])


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        (["a", "b\r\n", "c"], ["ab", "c"]),
        (["waiting", "\r\x1b[K", "done"], ["done"]),
        (["\x1b[1mbold\x1b[0m"], ["bold"]),
        (["x" * (COLUMNS + 3)], ["x" * COLUMNS, "xxx"]),
    ],
)
def test_screen(written, lines):
    screen = Screen()
    for second, text in enumerate(written):
        screen.write(text, float(second))
    assert [states[-1][1] for states in screen.states] == lines
    assert shownAtTheEnd(svg(screen, 1.0)) == lines


def test_committed_recording_is_of_the_commands_of_the_makefile():
    shown = " ".join(shownAtTheEnd(COMMITTED.read_text()))
    makefile = (COMMITTED.parent.parent / "Makefile").read_text()
    commands = [line.strip().split("'")[1] for line in makefile.splitlines() if line.startswith("\t\t'")]
    assert len(commands) > 1
    assert all(f"$ {command}" in shown for command in commands)

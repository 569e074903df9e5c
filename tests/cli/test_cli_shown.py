"""What only a terminal gets: the progress line, colour, and signs in place of control characters."""

from __future__ import annotations

import pytest

from rkllm_twisted.cli.terminal import Terminal
from tests.cli.inmemory import ACKNOWLEDGED, Stream, connected, withoutModel
from tests.spoken_server import finish, token


def test_progressOfLoading() -> None:
    cli, server = withoutModel("run", "hi", "--model", "m", isTty=True)
    assert cli.err == "loading m … 0 s"
    for _ in range(2):
        cli.reactor.advance(1)
    assert cli.err.endswith("\r\x1b[Kloading m … 2 s")
    server.answer(server.request()["id"], ACKNOWLEDGED)
    assert cli.err.endswith("2 s\r\x1b[K")
    assert cli.reactor.getDelayedCalls() == []
    server.answer(server.request()["id"], finish())
    assert cli.status == 0


def test_progressIsErasedBeforeAnError() -> None:
    cli, server = withoutModel("run", "hi", "--model", "m", isTty=True)
    server.refuse(server.request()["id"], -32005, "model load failed: no such file", reason="no such file")
    assert cli.err == "loading m … 0 s\r\x1b[Krkllm: model load failed: no such file (-32005)\n"
    assert cli.status == 1


def test_noProgressOnADumbTerminal() -> None:
    cli, _ = withoutModel("run", "hi", "--model", "m", isTty=True, environ={"TERM": "dumb"})
    assert cli.err == ""
    cli.done.cancel()


@pytest.mark.parametrize(
    ("isTty", "environ", "isColoured"),
    [(True, {}, True), (False, {}, False), (True, {"NO_COLOR": "1"}, False), (True, {"TERM": "dumb"}, False)],
)
def test_colour(isTty: bool, environ: dict[str, str], isColoured: bool) -> None:
    cli, server = connected("run", "hi", "--stats", isTty=isTty, environ=environ)
    server.answer(server.request()["id"], token("a"), finish())
    assert cli.err.startswith("\x1b[2m") is isColoured
    assert ("\x1b" in cli.out + cli.err) is isColoured


def test_anAnswerDoesNotCommandTheTerminal() -> None:
    text = "\x1b]0;title\x07\x9b2J\tok\r\n"
    for isTty, shown in ((True, "␛]0;title␇\ufffd2J\tok␍\n"), (False, text)):
        cli, server = connected("run", "hi", isTty=isTty)
        server.answer(server.request()["id"], token(text), finish())
        assert cli.out == shown


def test_theProgressLineGivesWayToTheAnswer() -> None:
    stdout = stderr = Stream(isTty=True)
    terminal = Terminal(stdout, stderr, {})
    terminal.progress("loading")
    terminal.write("a")
    terminal.progress("more")
    terminal.line("b")
    assert stderr.getvalue() == "loading\r\x1b[Ka\nmore\r\x1b[Kb\n"

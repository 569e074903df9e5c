"""The command on a real terminal."""

from __future__ import annotations

import signal

from tests.cli.processes import OpenTerminal, SocketServer
from tests.spoken_server import finish, token


def test_onATerminal(server: SocketServer, onTerminal: OpenTerminal) -> None:
    """The progress line comes and goes, tokens are shown as they come, Ctrl-C leaves the terminal as it was."""
    terminal = onTerminal("run", "hi", "--model", "m")
    server.refuse(server.expect("rkllm.run"), -32000, "model not initialized")
    id = server.expect("rkllm.init")
    terminal.expect("loading m … 0 s")
    server.answer(id, {"success": True, "message": ""})
    id = server.expect("rkllm.run")
    server.answer(id, token("one"))
    assert terminal.expect("one").endswith("\r\x1b[Kone")
    server.answer(id, token(" two"))
    terminal.expect(" two")
    terminal.type("\x03")
    server.expect("$/cancelRequest")
    server.answer(id, token(" three"), finish("abort"))
    status, rest = terminal.end()
    assert status == 130
    assert rest.replace("^C", "") == " three\r\n"
    assert terminal.settings() == terminal.before


def test_theSecondCtrlCLeavesTheTerminalSane(server: SocketServer, onTerminal: OpenTerminal) -> None:
    terminal = onTerminal("run", "hi")
    server.answer(server.expect("rkllm.run"), token("one"))
    terminal.expect("one")
    terminal.type("\x03")
    server.expect("$/cancelRequest")
    terminal.type("\x03")
    assert terminal.end()[0] == 130
    assert terminal.settings() == terminal.before


def test_noColourWhereNoneIsWanted(server: SocketServer, onTerminal: OpenTerminal) -> None:
    terminal = onTerminal("run", "hi", "--stats", NO_COLOR="1")
    server.answer(server.expect("rkllm.run"), token("a"), finish())
    status, shown = terminal.end()
    assert status == 0
    assert "prefill 10 tokens" in shown
    assert "\x1b" not in shown


def test_chat(server: SocketServer, onTerminal: OpenTerminal) -> None:
    """Lines can be edited; Ctrl-C at the prompt clears, in an answer ends it; Ctrl-D leaves."""
    terminal = onTerminal("chat", NO_COLOR="1")
    terminal.expectPrompt()
    assert terminal.settings() != terminal.before  # readline has the terminal
    terminal.type("never sent\x03")
    terminal.expect("Ctrl-D or /exit leaves")
    terminal.expectPrompt()
    terminal.type("ac\x1b[Db\r")
    request = server.request()
    assert request["params"][1]["prompt_input"] == "abc"
    assert request["params"][2]["keep_history"] == 1
    server.answer(request["id"], token("one"))
    terminal.expect("one")
    assert terminal.settings() == terminal.before
    terminal.type("\x03")
    assert server.expect("$/cancelRequest") == {"id": request["id"]}
    server.answer(request["id"], finish("abort"))
    terminal.expect("interrupted")
    terminal.expectPrompt()
    terminal.type("\x1b[A\r")  # the line before, from readline's history
    request = server.request()
    assert request["params"][1]["prompt_input"] == "abc"
    server.answer(request["id"], token("two"), finish())
    terminal.expect("two\r\n")
    terminal.expectPrompt()
    terminal.type("\x04")
    assert terminal.end()[0] == 0
    assert terminal.settings() == terminal.before


def test_terminatingAChatAtItsPrompt(server: SocketServer, onTerminal: OpenTerminal) -> None:
    terminal = onTerminal("chat")
    terminal.expectPrompt()
    terminal.process.terminate()
    assert terminal.end()[0] == 128 + signal.SIGTERM
    assert terminal.settings() == terminal.before

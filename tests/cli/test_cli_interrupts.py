"""Ctrl-C: the first ends what goes on, the second leaves at once."""

from __future__ import annotations

import signal

import pytest

from tests.cli.inmemory import Cli, connected, withoutModel
from tests.spoken_server import finish, token


def test_interruptEndsTheGenerationAndWaitsForItsLastLine() -> None:
    cli, server = connected("run", "hi", "--stats")
    id = server.request()["id"]
    server.answer(id, token("a"))
    cli.interrupt()
    assert server.request() == {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": id}}
    assert cli.status is None
    server.answer(id, token("b"), finish("abort"))
    assert (cli.out, cli.status) == ("ab\n", 130)
    assert "ended by abort" in cli.err


def test_interruptBeforeTheFirstToken() -> None:
    """-32800 is what was asked for, not an error."""
    cli, server = connected("run", "hi", isTty=True)
    id = server.request()["id"]
    cli.interrupt()
    server.refuse(id, -32800, "cancelled")
    assert (cli.out, cli.err, cli.status) == ("\n", "", 130)  # the terminal shows ^C: that line is ended


def test_cancelledByAnother() -> None:
    cli, server = connected("run", "hi")
    server.refuse(server.request()["id"], -32800, "cancelled")
    assert (cli.err, cli.status) == ("rkllm: cancelled (-32800)\n", 1)


def test_interruptWhileLoading() -> None:
    cli, server = withoutModel("run", "hi", "--model", "m", isTty=True)
    id = server.request()["id"]
    cli.interrupt()
    assert cli.status == 130
    assert cli.err == "loading m … 0 s\r\x1b[K"
    assert server.request()["params"] == {"id": id}
    assert cli.reactor.getDelayedCalls() == []


def test_interruptWhileConnecting() -> None:
    cli = Cli("run", "hi")
    cli.interrupt()
    assert (cli.status, cli.err) == (130, "")


def test_theSecondInterruptLeavesAtOnce(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr("os._exit", left.append)
    cli, server = withoutModel("run", "hi", "--model", "m", isTty=True)
    signal.raise_signal(signal.SIGINT)
    assert left == []
    signal.raise_signal(signal.SIGINT)  # the reactor has not come round: it may be stuck
    assert left == [130]
    assert cli.err.endswith("\r\x1b[K")
    cli.turn()
    server.hangUp()

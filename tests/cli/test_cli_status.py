"""``rkllm status``: what a daemon tells about itself."""

from __future__ import annotations

import json

from tests.cli.inmemory import SOCKET, connected


def test_statusOfADaemonThatTellsAboutItself() -> None:
    facts = {
        "version": "0.1.0",
        "backend": {"name": "llamacpp", "state": "ready"},
        "model": None,
        "queue": {"length": 2, "positions": [1, 2], "waiting": []},
        "is_running": True,
    }
    for argv, isJson in ((["status"], False), (["status", "--json"], True)):
        cli, server = connected(*argv)
        request = server.request()
        assert request["method"] == "server.status"
        server.answer(request["id"], facts)
        assert (cli.err, cli.status) == ("", 0)
        if isJson:
            assert json.loads(cli.out) == facts
        else:
            assert [line.split("  ")[0] + "=" + line.split("  ")[-1].strip() for line in cli.out.splitlines()] == [
                f"socket={SOCKET}",
                "version=0.1.0",
                "backend name=llamacpp",
                "backend state=ready",
                "model=none",
                "queue length=2",
                "queue positions=[1,2]",
                "queue waiting=none",
                "is running=yes",
            ]


def test_statusOfADaemonThatDoesNot() -> None:
    cli, server = connected("status")
    server.refuse(server.request()["id"], -32601, "method not found: server.status")
    request = server.request()
    assert request["method"] == "rkllm.is_running"
    server.answer(request["id"], {"is_running": False, "status_code": 0})
    assert (cli.out, cli.err, cli.status) == (f"socket      {SOCKET}\ngenerating  no\n", "", 0)


def test_statusThatFails() -> None:
    cli, server = connected("status")
    server.refuse(None, -32001, "busy: 100 clients", retryable=True)
    assert (cli.out, cli.err, cli.status) == ("", "rkllm: busy: 100 clients (-32001)\n", 1)

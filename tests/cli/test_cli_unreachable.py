"""The daemon is not there, or nowhere."""

from __future__ import annotations

import pytest
from twisted.internet.error import ConnectError, ConnectionRefusedError
from twisted.python.failure import Failure

from rkllm_twisted.cli.arguments import parse
from rkllm_twisted.cli.problems import unreachable
from rkllm_twisted.cli.program import start
from rkllm_twisted.cli.terminal import Terminal
from tests.cli.inmemory import SOCKET, Cli, Reactor, Stream
from tests.spoken_server import outcome


@pytest.mark.parametrize(
    ("error", "socket", "message"),
    [
        (
            ConnectError(2),
            "/tmp/rkllm.sock",
            "no daemon answers at /tmp/rkllm.sock (no such file or directory); start one: twistd -n rkllm",
        ),
        (
            ConnectionRefusedError(111),
            "/a:b",
            "no daemon answers at /a:b (connection refused); start one: twistd -n rkllm --listen unix:/a\\:b",
        ),
        (
            ConnectError(2),
            "unix:/a",
            "no daemon answers at unix:/a (no such file or directory); start one: twistd -n rkllm --listen unix:/a",
        ),
        (ConnectError(13), "/a", "/a may not be opened: it belongs to another user"),
    ],
)
def test_unreachable(error: ConnectError, socket: str, message: str) -> None:
    assert unreachable(error, socket) == message


@pytest.mark.parametrize("argv", [["run", "hi"], ["chat"], ["status"], ["call", "m"]])
def test_noDaemon(argv: list[str]) -> None:
    cli = Cli(*argv)
    cli.factory.clientConnectionFailed(None, Failure(ConnectError(2)))
    assert (cli.out, cli.status) == ("", 1)
    assert cli.err.startswith(f"rkllm: no daemon answers at {SOCKET}")
    assert cli.err.count("\n") == 1


@pytest.mark.parametrize("address", ["carrierpigeon:x", "tcp:bad", "x" * 108, "unix:" + "é" * 54])
def test_anAddressThatIsNone(address: str) -> None:
    stderr = Stream()
    options = parse(["status"], {"RKLLM_UDS_PATH": address})
    (error,) = outcome(start(Reactor(), options, Terminal(Stream(), stderr, {})))
    assert (type(error), error.code) == (SystemExit, 2)
    assert stderr.getvalue().startswith(f"rkllm: --socket {address}: ")
    assert stderr.getvalue().count("\n") == 1

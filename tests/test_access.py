"""Who may use a socket, and for what."""

import grp
import os
import socket
import struct
import sys

import msgspec
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.interfaces import ISystemHandle
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.internet.utils import getProcessOutput
from twisted.logger import formatEvent
from zope.interface import directlyProvides

from rkllm_twisted.access import ALWAYS, Access, groupsOf
from rkllm_twisted.backends.scripted import ScriptedBackend
from rkllm_twisted.methods.answers import ANSWERS
from rkllm_twisted.server import LINGER
from rkllm_twisted.testing.peers import Server
from rkllm_twisted.wire.connection import Peer as Credentials
from tests.served import Served

ALICE = Credentials(pid=1, uid=1000, gid=100)
NO_GROUPS = frozenset()


@pytest.mark.parametrize(
    ("access", "groups", "isAdmitted"),
    [
        (Access(), NO_GROUPS, True),
        (Access(uids=frozenset({1000})), NO_GROUPS, True),
        (Access(uids=frozenset({0, 1001})), NO_GROUPS, False),
        (Access(uids=frozenset()), NO_GROUPS, False),
        (Access(gids=frozenset({100})), NO_GROUPS, True),
        (Access(gids=frozenset({44})), NO_GROUPS, False),
        (Access(gids=frozenset({44})), frozenset({27, 44}), True),
        (Access(gids=frozenset({1000})), NO_GROUPS, False),  # a uid is no gid
        (Access(uids=frozenset({100})), NO_GROUPS, False),
        (Access(uids=frozenset({0}), gids=frozenset({100})), NO_GROUPS, True),
        (Access(uids=frozenset({1000}), gids=frozenset({44})), NO_GROUPS, True),
        (Access(uids=frozenset({0}), gids=frozenset({44})), frozenset({27}), False),
    ],
)
def test_who_may_connect(access, groups, isAdmitted):
    assert access.admits(ALICE, groups) is isAdmitted


def test_unknown_peer_is_admitted_only_where_everybody_is():
    assert Access().admits(None, NO_GROUPS)
    assert not Access(uids=frozenset({0})).admits(None, NO_GROUPS)
    assert not Access(gids=frozenset({0})).admits(None, frozenset({0}))


def test_root_is_nobody_special():
    assert not Access(uids=frozenset({1000})).admits(Credentials(pid=1, uid=0, gid=0), NO_GROUPS)


def test_methods():
    access = Access(methods=frozenset({"rkllm.run", "server.*"}))
    assert {name for name in ANSWERS if access.permits(name)} == {"rkllm.run", "server.status", *ALWAYS}
    assert not access.permits("rkllm.run_async")
    assert not access.permits("RKLLM.RUN")
    assert all(Access().permits(name) for name in ANSWERS)


def test_method_that_is_not_allowed_at_a_socket_is_at_another():
    """W-CODES: -32007."""
    clock = Clock()
    server = Server(ScriptedBackend(clock), clock)
    user, operator = server.connect(1000, Access(frozenset({"rkllm.run", "rkllm.is_running"}))), server.connect()
    [refused] = user.ask("rkllm.init", {"model_path": "any"})
    assert (refused["error"]["code"], refused["error"]["data"]["retryable"]) == (-32007, False)
    assert "rkllm.init" in refused["error"]["message"]
    [answer] = operator.ask("rkllm.init", {"model_path": "any"})
    assert answer["result"]["success"] is True
    assert [line["result"]["text"] for line in user.ask("rkllm.run", {"prompt_input": "one"})] == ["one", None]
    [unknown] = user.ask("rkllm.nothing")
    assert unknown["error"]["code"] == -32601
    batch = [{"jsonrpc": "2.0", "id": id, "method": name} for id, name in enumerate(("rkllm.destroy", "rkllm.run"))]
    user.send(b"[%b]\n" % b",".join(map(msgspec.json.encode, batch)))
    [[first, second]] = user.received()
    assert (first["error"]["code"], second["error"]["code"]) == (-32007, -32602)


def test_own_request_can_be_cancelled_whatever_is_allowed():
    """W-CANCEL."""
    clock = Clock()
    server = Server(ScriptedBackend(clock, interval=1), clock)
    server.connect().ask("rkllm.init", {"model_path": "any"})
    user = server.connect(access=Access(methods=frozenset({"rkllm.run"})))
    user.ask("rkllm.run", {"prompt_input": "one"})
    user.send({"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": 1}})
    [last] = user.received()
    assert last["error"]["code"] == -32800


def test_peer_that_may_not_connect_is_told_so_and_not_heard():
    """W-CODES: -32007; and it takes no place of others."""
    clock = Clock()
    server = Server(ScriptedBackend(clock), clock, maxClients=1)
    stranger = server.connect(1001, Access(uids=frozenset({1000})))
    [error] = stranger.received()
    assert (error["id"], error["error"]["code"]) == (None, -32007)
    assert stranger.transport.writeClosed
    assert stranger.ask("rkllm.get_constants") == []
    known = server.connect(1000, Access(uids=frozenset({1000})))
    [answer] = known.ask("rkllm.is_running")
    assert "result" in answer
    assert stranger.received(LINGER + 1) == []
    assert stranger.transport.aborting


def test_peer_that_cannot_be_told_is_refused(logged):
    """Over TCP nobody knows who is there."""
    clock = Clock()
    server = Server(ScriptedBackend(clock), clock)
    protocol = server.factory.behind(Access(uids=frozenset({0}))).buildProtocol(None)
    transport = StringTransport()
    transport.loseWriteConnection = transport.abortConnection = lambda: None
    protocol.makeConnection(transport)
    assert b"-32007" in transport.value()
    [event] = [event for event in logged if "refused" in event["log_format"]]
    assert event["who"] == "an unknown peer"
    clock.advance(LINGER)


@pytest_twisted.ensureDeferred
async def test_real_credentials(tmp_path, logged):
    """The kernel says who is there; refused and admitted are both in the log with pid, uid and gid."""
    for uids, isAdmitted in ((frozenset({os.getuid()}), True), (frozenset({os.getuid() + 1}), False)):
        served = Served(str(tmp_path / "s"))
        factory = served.server.factory.behind(Access(uids=uids))
        served.port = await UNIXServerEndpoint(reactor, served.path).listen(factory)
        client = await served.connect()
        client.ask("rkllm.is_running")
        [answer] = await client.lines(1)
        assert ("result" in answer) is isAdmitted
        client.transport.loseConnection()
        await client.closed
        await served.stop()
    me = f"pid {os.getpid()}, uid {os.getuid()}, gid {os.getgid()}"
    said = [formatEvent(event) for event in logged if event["log_namespace"] == "rkllm_twisted.server.ServerFactory"]
    assert said == [f"connection from {me}", f"connection from {me}", f"refused: {me}"]


class Handle:
    """Of a transport: a socket, real or not."""

    def __init__(self, handle):
        directlyProvides(self, ISystemHandle)
        self.getHandle = lambda: handle


def test_groups_of_a_real_peer():
    """As the kernel has them of who connected."""
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert groupsOf(Handle(ours)) == frozenset(os.getgroups())


def test_groups_where_they_cannot_be_told():
    with socket.socket() as tcp:
        assert groupsOf(Handle(tcp)) == NO_GROUPS
    assert groupsOf(StringTransport()) == NO_GROUPS

    class Old:
        """The socket of a kernel before 4.13."""

        family = socket.AF_UNIX

        def getsockopt(self, level, option, size):
            raise OSError(92, "Protocol not available")

    assert groupsOf(Handle(Old())) == NO_GROUPS


def test_groups_are_read_whole():
    class Many(Handle):
        family = socket.AF_UNIX

        def __init__(self):
            super().__init__(self)

        def getsockopt(self, level, option, size):
            assert (level, option, size) == (socket.SOL_SOCKET, 59, 1024)
            return struct.pack("256I", *range(256))

    assert groupsOf(Many()) == frozenset(range(256))


@pytest.mark.skipif(os.getuid() != 0, reason="only root may take on other groups")
@pytest_twisted.ensureDeferred
async def test_member_of_an_allowed_group(tmp_path):
    """By a supplementary group, of a process that has it when it connects."""
    extra = next(one.gr_gid for one in grp.getgrall() if one.gr_gid not in {*os.getgroups(), os.getgid()})
    served = Served(str(tmp_path / "s"))
    served.port = await UNIXServerEndpoint(reactor, served.path).listen(
        served.server.factory.behind(Access(gids=frozenset({extra})))
    )
    script = (
        "import os, socket, sys; os.setgroups(eval(sys.argv[2])); s = socket.socket(socket.AF_UNIX); "
        "s.connect(sys.argv[1]); "
        """s.sendall(b'{"jsonrpc":"2.0","id":1,"method":"rkllm.is_running"}\\n'); print(s.makefile().readline())"""
    )
    for groups, said in (([extra], b"is_running"), ([], b"-32007")):
        output = await getProcessOutput(sys.executable, ["-c", script, served.path, repr(groups)], errortoo=True)
        assert said in output
    await served.stop()

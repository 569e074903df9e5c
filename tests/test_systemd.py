"""What is said to systemd, and the sockets that it passes on."""

import os
import shutil
import signal
import socket
import subprocess

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock

from rkllm_twisted.backends.scripted import ScriptedBackend
from rkllm_twisted.service import RKLLMService
from rkllm_twisted.systemd import ACCEPTED, PAUSE, InheritedPort, NoSuchSocket, Notifier, inheritedSocket
from rkllm_twisted.testing.peers import Server
from tests.end_to_end.daemon import BIN, Client
from tests.served import Client as TwistedClient
from tests.served import untilGone

# sd_notify


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """systemd's end: a socket, and its address as it is in the environment."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.setblocking(False)
        manager.bind(str(tmp_path / "notify") if request.param == "path" else f"\0rkllm-test-{os.getpid()}")
        name = manager.getsockname()
        yield manager, name if isinstance(name, str) else "@" + name[1:].decode()


def said(manager):
    """What has come."""
    messages = []
    while True:
        try:
            messages.append(manager.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_ready_and_stopping(manager):
    manager, address = manager
    notifier = Notifier({"NOTIFY_SOCKET": address}, Clock())
    notifier.ready()
    assert said(manager) == [f"READY=1\nMAINPID={os.getpid()}"]
    notifier.stopping()
    assert said(manager) == ["STOPPING=1"]


def test_watchdog_is_fed_twice_in_its_time_until_the_stop(manager):
    manager, address = manager
    clock = Clock()
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
    notifier = Notifier(environ, clock)
    clock.advance(100)
    assert said(manager) == []
    notifier.ready()
    assert said(manager)[1:] == ["WATCHDOG=1"]
    clock.advance(14.9)
    assert said(manager) == []
    clock.advance(0.2)
    assert said(manager) == ["WATCHDOG=1"]
    clock.pump([15] * 3)
    assert said(manager) == ["WATCHDOG=1"] * 3
    notifier.stopping()
    assert said(manager) == ["STOPPING=1"]
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    "environ",
    [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}],
)
def test_no_watchdog_for_us(manager, environ):
    manager, address = manager
    clock = Clock()
    Notifier({"NOTIFY_SOCKET": address, **environ}, clock).ready()
    assert len(said(manager)) == 1
    assert clock.getDelayedCalls() == []


def test_nobody_asked_for_it(logged):
    clock = Clock()
    notifier = Notifier({"WATCHDOG_USEC": "1000000"}, clock)
    notifier.ready()
    notifier.stopping()
    assert clock.getDelayedCalls() == []
    assert logged == []


def test_systemd_that_is_gone_is_a_warning(logged, tmp_path):
    """In a container with a left-over environment."""
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "nothing")}, Clock())
    notifier.ready()
    [event] = logged
    assert event["log_level"].name == "warn"
    assert event["reason"] == "No such file or directory"


# Sockets that are passed on


@pytest.fixture
def listening(tmp_path):
    """A socket as systemd would make it."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        os.chmod(tmp_path / "s", 0o640)
        listening.listen(200)
        yield listening


def test_socket_by_name_and_by_number(listening, tmp_path):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "other"))
        other.listen()
        os.dup2(listening.fileno(), first := max(listening.fileno(), other.fileno()) + 100)
        os.dup2(other.fileno(), first + 1)
    environ = {"LISTEN_FDNAMES": "users:operators"}
    try:
        for name, path in {"users": "s", "operators": "other", "0": "s", "1": "other"}.items():
            with inheritedSocket(name, environ, first) as inherited:
                assert inherited.getsockname() == str(tmp_path / path)
                assert not inherited.getblocking()
        with inheritedSocket("1", {}, first) as inherited:
            assert inherited.getsockname() == str(tmp_path / "other")
        for name in ("nobody", "2", "-1", "", "\u0661", "99999999999999"):
            with pytest.raises(NoSuchSocket) as raised:
                inheritedSocket(name, environ, first)
            message = f"systemd has passed on no listening socket {name!r}; passed on: users (0), operators (1)"
            assert str(raised.value) == message
    finally:
        os.close(first)
        os.close(first + 1)


def test_socket_that_does_not_listen():
    """A name alone is no socket: the environment may be an old one, or of another process."""
    with socket.socket(socket.AF_UNIX) as silent, open(os.devnull) as nothing:
        for descriptor in (silent.fileno(), nothing.fileno(), 4000):
            with pytest.raises(NoSuchSocket, match="x"):
                inheritedSocket("x", {"LISTEN_FDNAMES": "x"}, descriptor)
    with pytest.raises(NoSuchSocket, match="passed on: none"):
        inheritedSocket("0", {}, 4000)


class Inherited:
    """A server behind an inherited socket."""

    def __init__(self, listening, reactor=reactor):
        clock = Clock()
        self.server = Server(ScriptedBackend(clock), clock)
        self.server.factory.reactor = reactor
        self.path = listening.getsockname()
        inherited = listening.dup()
        inherited.setblocking(False)
        self.port = InheritedPort(inherited, self.server.factory, reactor)

    async def connect(self):
        return await UNIXClientEndpoint(reactor, self.path).connect(Factory.forProtocol(TwistedClient))

    async def stop(self, *clients):
        for client in clients:
            client.transport.loseConnection()
            await client.closed
        await untilGone(self, 0)
        self.port.stopListening()


@pytest_twisted.ensureDeferred
async def test_accepts(listening):
    """W-SOCKET, and the kernel tells who is there as at a socket of our own."""
    inherited = Inherited(listening)
    inherited.port.startListening()
    clients = [await inherited.connect() for _ in range(ACCEPTED + 10)]
    for client in clients:
        client.ask("rkllm.is_running")
        assert "result" in (await client.lines(1))[0]
    peers = {protocol._connection.peer for protocol in inherited.server.factory._connected}
    assert [(peer.pid, peer.uid) for peer in peers] == [(os.getpid(), os.getuid())]
    await inherited.stop(*clients)


@pytest_twisted.ensureDeferred
async def test_leaves_the_socket_as_it_was(listening):
    """Its file, its mode, and whoever connects meanwhile: they are for the next daemon."""
    first, second = Inherited(listening), Inherited(listening)
    first.port.startListening()
    client = await first.connect()
    client.ask("rkllm.is_running")
    await client.lines(1)
    await first.stop(client)
    assert os.stat(first.path).st_mode & 0o777 == 0o640
    between = await second.connect()
    between.ask("rkllm.is_running")
    second.port.startListening()
    assert "result" in (await between.lines(1))[0]
    await second.stop(between)


class CountingReactor:
    """Remembers who reads; adopts connections if the test lets it."""

    def __init__(self, error=None):
        self.clock = Clock()
        self.callLater, self.readers, self.adopted, self.error = self.clock.callLater, set(), 0, error

    def addReader(self, reader):
        self.readers.add(reader)

    def removeReader(self, reader):
        self.readers.discard(reader)

    def adoptStreamConnection(self, descriptor, family, factory):
        assert family == socket.AF_UNIX
        if self.error is not None:
            raise self.error
        self.adopted += 1


class Exhausted:
    """A socket at which nobody can be accepted, for want of descriptors."""

    def __init__(self, *errors):
        self.errors = list(errors)

    def accept(self):
        raise self.errors.pop(0)

    def close(self):
        pass


TOO_MANY = OSError(24, "Too many open files")


def test_without_a_free_descriptor_it_pauses(listening, flushErrors):
    """Or the reactor would come back at once, for ever."""
    reactor = CountingReactor()
    inherited = Inherited(listening, reactor)
    inherited.port._socket = Exhausted(TOO_MANY, BlockingIOError(), ConnectionAbortedError())
    inherited.port.startListening()
    inherited.port.doRead()
    [failure] = flushErrors(RuntimeError)
    assert "cannot be accepted" in str(failure.value)
    assert reactor.readers == set()
    reactor.clock.advance(PAUSE)
    assert reactor.readers == {inherited.port}
    inherited.port.doRead()
    inherited.port.doRead()
    assert reactor.readers == {inherited.port}
    assert reactor.clock.getDelayedCalls() == []


def test_without_a_descriptor_to_adopt_the_accepted_it_pauses_too(listening, flushErrors):
    """An exception out of doRead would end the listening for good."""
    reactor = CountingReactor(TOO_MANY)
    inherited = Inherited(listening, reactor)
    inherited.port.startListening()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(inherited.path)
        inherited.port.doRead()
        assert client.recv(1) == b""  # closed, and not left hanging
    assert len(flushErrors(RuntimeError)) == 1
    assert reactor.readers == set()
    inherited.port.stopListening()
    assert reactor.clock.getDelayedCalls() == []


def test_others_have_their_turn(listening):
    reactor = CountingReactor()
    inherited = Inherited(listening, reactor)
    clients = [socket.socket(socket.AF_UNIX) for _ in range(ACCEPTED + 1)]
    for client in clients:
        client.connect(inherited.path)
    inherited.port.doRead()
    assert reactor.adopted == ACCEPTED
    inherited.port.doRead()
    assert reactor.adopted == ACCEPTED + 1
    for client in clients:
        client.close()
    inherited.port.connectionLost(None)


def test_service_without_its_socket():
    with pytest.raises(NoSuchSocket):
        RKLLMService(ScriptedBackend(reactor), "systemd:nothing", reactor).startService()


# Real activation

ACTIVATE = shutil.which("systemd-socket-activate")


@pytest.mark.skipif(ACTIVATE is None, reason="systemd-socket-activate is not installed")
class TestActivation:
    """A daemon that is started by the first connection, and told of the socket as systemd does."""

    @pytest.fixture
    def activate(self, tmp_path):
        processes = []

        def activate(options, *arguments):
            command = [*options, str(BIN / "twistd"), "-n", "--pidfile=", "rkllm", "--backend", "scripted", *arguments]
            passed = [f"--setenv={name}" for name in ("PATH", "NOTIFY_SOCKET") if name in os.environ]
            process = subprocess.Popen(
                [ACTIVATE, *passed, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path
            )
            processes.append(process)
            next(line for line in process.stdout if "Listening on" in line)
            return process

        yield activate
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()

    @pytest.mark.parametrize(
        ("name", "listen"),
        [(["--fdname=rkllm"], "systemd:rkllm"), (["--fdname=rkllm"], "systemd:0"), ([], "systemd:0")],
    )
    def test_is_started_by_a_connection_and_leaves_the_socket(self, activate, tmp_path, name, listen):
        path = tmp_path / "s"
        process = activate(["-l", str(path), *name], "--listen", listen)
        mode = path.stat().st_mode
        client = Client(str(path))
        assert "result" in client.ask("rkllm.get_constants")
        assert path.stat().st_mode == mode
        client.close()
        process.send_signal(signal.SIGTERM)
        assert "Server Shut Down" in process.stdout.read()
        assert process.wait(30) == -signal.SIGTERM
        assert path.exists()  # systemd listens there still

    def test_two_sockets_with_different_methods(self, activate, tmp_path):
        users, operators = str(tmp_path / "users"), str(tmp_path / "operators")
        activate(
            ["-l", users, "-l", operators, "--fdname=users:operators"],
            *("--model", "any", "--listen", "systemd:users", "--methods", "rkllm.run", "--listen", "systemd:operators"),
        )
        client = Client(users)
        assert client.ask("rkllm.destroy")["error"]["code"] == -32007
        client.send("rkllm.run", {"prompt_input": "one"})
        assert client.stream()[0]["text"] == "one"
        assert Client(operators).ask("rkllm.destroy")["result"]["success"] is True

    def test_name_that_is_not_there(self, activate, tmp_path):
        process = activate(["-l", str(tmp_path / "s"), "--fdname=rkllm"], "--listen", "systemd:other")
        Client(str(tmp_path / "s"))
        line = next(line for line in process.stdout if line.startswith("rkllm:"))
        assert line == "rkllm: systemd has passed on no listening socket 'other'; passed on: rkllm (0)\n"
        assert process.wait(30) == 1


def test_daemon_tells_that_it_is_ready_and_that_it_stops(tmp_path):
    """Real twistd: READY=1 after it listens, WATCHDOG=1 while it serves, STOPPING=1."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(60)
        manager.bind(str(tmp_path / "notify"))
        environ = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        command = [
            str(BIN / "twistd"),
            "-n",
            "--pidfile=",
            "rkllm",
            "--backend",
            "scripted",
            "--listen",
            f"unix:{path}",
        ]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=tmp_path, env=environ) as process:
            try:
                assert manager.recv(4096).decode() == f"READY=1\nMAINPID={process.pid}"
                assert "result" in Client(str(path)).ask("rkllm.is_running")
                assert [manager.recv(4096) for _ in range(3)] == [b"WATCHDOG=1"] * 3
                process.send_signal(signal.SIGTERM)
                while (message := manager.recv(4096)) == b"WATCHDOG=1":
                    pass
                assert message == b"STOPPING=1"
            finally:
                process.terminate()

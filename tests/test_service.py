"""The service, as another Twisted program would embed it."""

import os
import socket
import stat

import msgspec
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import globalLogPublisher
from twisted.protocols.basic import LineReceiver

from rkllm_twisted.access import Access
from rkllm_twisted.backends.scripted import ScriptedBackend
from rkllm_twisted.listening import AddressUnusable
from rkllm_twisted.service import RKLLMService
from rkllm_twisted.testing.runtimes import ScriptedRuntime


class OneAnswer(LineReceiver):
    """Asks one thing."""

    delimiter = b"\n"

    def ask(self, method):
        self.answer = Deferred()
        self.sendLine(msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": method}))
        return self.answer

    def lineReceived(self, line):
        self.answer.callback(msgspec.json.decode(line))


async def ask(path, method):
    client = await UNIXClientEndpoint(reactor, path).connect(Factory.forProtocol(OneAnswer))
    answer = await client.ask(method)
    client.transport.loseConnection()
    return answer


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "s")


@pytest_twisted.ensureDeferred
async def test_serves_and_leaves_nothing(path):
    """W-SOCKET: the file has mode 0600 and is gone after a clean stop."""
    service = RKLLMService(ScriptedBackend(reactor), f"unix:{path}", reactor)
    service.startService()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert (await ask(path, "rkllm.is_running"))["result"]["is_running"] is False
    await service.stopService()
    assert os.listdir(os.path.dirname(path)) == []


@pytest_twisted.ensureDeferred
async def test_socket_that_somebody_removed(path):
    """W-SOCKET: the daemon ends as cleanly as if it were there."""
    service = RKLLMService(ScriptedBackend(reactor), f"unix:{path}", reactor)
    service.startService()
    os.unlink(path)
    await service.stopService()
    assert os.listdir(os.path.dirname(path)) == []


def passOn(path, descriptor):
    """Ask something, with a descriptor passed on beside it; returns the answer."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(path)
        socket.send_fds(client, [b'{"jsonrpc": "2.0", "id": 1, "method": "rkllm.is_running"}\n'], [descriptor])
        return client.recv(4096)


@pytest_twisted.ensureDeferred
async def test_descriptor_that_a_peer_passes_on_is_closed(path):
    """And not spoken of: whoever passes on many would fill the log."""
    service = RKLLMService(ScriptedBackend(reactor), f"unix:{path}", reactor)
    service.startService()
    events = []
    globalLogPublisher.addObserver(events.append)
    reading, writing = os.pipe()
    answer = await deferToThread(passOn, path, writing)
    globalLogPublisher.removeObserver(events.append)
    os.close(writing)
    assert b'"is_running":false' in answer
    assert os.read(reading, 1) == b""  # nobody else has the writing end
    os.close(reading)
    assert [event for event in events if "descriptor" in str(event)] == []
    await service.stopService()


@pytest_twisted.ensureDeferred
async def test_mode_of_the_endpoint_string(path):
    """W-SOCKET."""
    service = RKLLMService(ScriptedBackend(reactor), f"unix:address={path}:mode=660", reactor)
    service.startService()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    await service.stopService()


@pytest_twisted.ensureDeferred
async def test_path_in_use_fails_the_start(path):
    """W-SOCKET: and does not disturb who uses it."""
    first, second = (RKLLMService(ScriptedBackend(reactor), f"unix:{path}", reactor) for _ in range(2))
    first.startService()
    with pytest.raises(AddressUnusable):
        second.startService()
    await second.stopService()
    assert "result" in await ask(path, "rkllm.get_constants")
    await first.stopService()


@pytest_twisted.ensureDeferred
async def test_start_that_fails_leaves_nothing(path):
    """Of two sockets the first can be listened on, and the second is the same."""
    twice = [(f"unix:{path}", Access()), (f"unix:{os.path.dirname(path)}//s", Access())]
    service = RKLLMService(ScriptedBackend(reactor), twice, reactor)
    with pytest.raises(AddressUnusable):
        service.startService()
    await deferLater(reactor, 0)  # the reactor closes it in its next turn
    assert os.listdir(os.path.dirname(path)) == []


@pytest_twisted.ensureDeferred
async def test_other_endpoints(path):
    service = RKLLMService(ScriptedBackend(reactor), "tcp:0:interface=127.0.0.1", reactor)
    service.startService()
    await service.stopService()


@pytest_twisted.ensureDeferred
async def test_blocking_runtime_is_adapted_and_the_model_loaded_at_start(path):
    runtime = ScriptedRuntime()
    service = RKLLMService(runtime, f"unix:{path}", reactor, model="any")
    service.startService()
    assert "result" in await ask(path, "rkllm.destroy")  # waits its turn behind the load
    assert [name for name, _ in runtime.models[0].calls] == ["destroy"]
    await service.stopService()


@pytest_twisted.ensureDeferred
async def test_model_that_is_not_loaded_is_said_in_the_log(path, flushErrors):
    def fail():
        raise MemoryError("no room for the model")

    service = RKLLMService(ScriptedRuntime(initialised=fail), f"unix:{path}", reactor, model="any")
    service.startService()
    assert (await ask(path, "rkllm.destroy"))["error"]["code"] == -32000
    assert len(flushErrors(RuntimeError)) == 1
    await service.stopService()


@pytest_twisted.ensureDeferred
async def test_says_that_it_has_started(path):
    said = []
    globalLogPublisher.addObserver(said.append)
    service = RKLLMService(ScriptedBackend(reactor), f"unix:{path}", reactor)
    service.startService()
    globalLogPublisher.removeObserver(said.append)
    [event] = [event for event in said if "Server started successfully" in (event.get("log_format") or "")]
    assert event["address"] == f"unix:{path}"
    await service.stopService()

"""The service of examples/embedded_service: its own work, the model's, and both at once."""

import http.client
import shutil
import socket
from pathlib import Path

import pytest

from rkllm_twisted.backends.llamacpp import unusable
from tests.tiny_model import writeModel

EXAMPLES = Path(__file__).parents[2] / "examples"
DESK = EXAMPLES / "embedded_service"
ECHO = EXAMPLES / "backend_echo"


class OverUnix(http.client.HTTPConnection):
    """HTTP over a Unix socket, which needs no free port."""

    def __init__(self, path):
        super().__init__("desk", timeout=60)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@pytest.fixture
def desk(daemon, tmp_path):
    """Starts the service."""
    for name in ("desk.py", "desk.tac"):
        shutil.copy(DESK / name, tmp_path)

    def start(backend="echo", model="any"):
        environ = {
            "DESK_HTTP": f"unix:{tmp_path / 'http.sock'}",
            "DESK_BACKEND": backend,
            "DESK_MODEL": str(model),
            "PYTHONPATH": f".:{ECHO}",
        }
        return daemon(runner=("twistd", "-n", "--pidfile=", "-y"), service="desk.tac", environ=environ)

    return start


@pytest.fixture
def ask(tmp_path):
    """A request: its status, and what it says."""

    def ask(method, where, body=None):
        connection = OverUnix(str(tmp_path / "http.sock"))
        connection.request(method, where, body)
        answer = connection.getresponse()
        said = answer.read().decode()
        connection.close()
        return answer.status, said

    return ask


def test_own_work_and_the_models(desk, ask):
    started = desk()
    assert ask("GET", "/hours") == (200, "Monday to Friday, 9 to 17\n")
    assert ask("POST", "/ask", "wie groß".encode()) == (200, "wie groß")
    client = started.connect()
    client.send("rkllm.run", None, {"prompt_input": "of another program"}, None, None)
    assert client.stream()[0]["text"] == "of"
    client.close()


def test_errors_are_told(desk, ask):
    started = desk()
    assert ask("POST", "/ask", b"\xff") == (400, "the question is not UTF-8\n")
    client = started.connect()
    client.ask("rkllm.destroy")
    status, said = ask("POST", "/ask", b"anybody")
    assert (status, said[:21]) == (503, "model not initialized")
    client.close()


@pytest.mark.skipif(unusable() is not None, reason=f"llama.cpp cannot run here: {unusable()}")
def test_question_of_an_asker_who_hangs_up_is_taken_back(desk, tmp_path):
    model = writeModel(tmp_path / "tiny.gguf", style="cycle", contextLength=16384)
    started = desk("llamacpp:threads=1", model)
    client = started.connect()
    client.ask("rkllm.init", {"model_path": str(model), "max_context_len": 16384, "top_k": 1})
    client.send("rkllm.run", None, {"prompt_input": "a"}, {"max_new_tokens": 100_000}, None, id="long")
    watcher = started.connect()

    def waitFor(length):
        for _ in range(100_000):
            if watcher.ask("server.status")["result"]["queue"]["length"] == length:
                return
        raise AssertionError(f"the queue never had {length} requests")

    asker = OverUnix(str(tmp_path / "http.sock"))
    asker.request("POST", "/ask", b"anybody")
    waitFor(1)
    asker.close()
    waitFor(0)
    assert watcher.ask("rkllm.is_running")["result"]["is_running"] is True  # it is not that the other has ended
    client.close()
    watcher.close()

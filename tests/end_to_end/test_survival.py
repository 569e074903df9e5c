"""What ends a process, over a real daemon with a real backend: the daemon stays, and everybody is told."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from rkllm_twisted.backends.llamacpp import unusable
from tests.tiny_model import writeModel

pytestmark = pytest.mark.skipif(unusable() is not None, reason=f"llama.cpp cannot run here: {unusable()}")

MARK = "xylophone-prompt-mark"
ENDLESS = {"max_new_tokens": 100_000}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that goes on until its context is full."""
    return writeModel(tmp_path_factory.mktemp("model") / "tiny.gguf", style="cycle", contextLength=16384)


@pytest.fixture
def loaded(daemon, model):
    """A daemon with the model."""

    def loaded(*arguments):
        server = daemon("--backend", "llamacpp:threads=1", *arguments)
        client = server.connect()
        param = {"model_path": str(model), "max_context_len": 16384, "top_k": 1, "max_new_tokens": 3}
        assert client.ask("rkllm.init", param, id=0)["result"]["success"] is True
        return server, client

    return loaded


def childOf(server):
    """The process of the runtime."""
    pid = server.process.pid
    [child] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def waitFor(pid):
    """Until a process that is not ours has ended."""
    subprocess.run(["tail", f"--pid={pid}", "-f", "/dev/null"], timeout=60, check=True)


def start(client, id, **infer):
    client.send("rkllm.run", {"prompt_input": "go on"}, infer, id=id)


def lastLine(client, id):
    """The last line of a request, of whatever kind."""
    while True:
        message = client.receive()
        if message["id"] == id and ("error" in message or message["result"].get("_callback_state") in (2, 3)):
            return message


@pytest.mark.parametrize("ending", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_death_in_a_run(loaded, ending):
    """W-FINISH, W-CODES: after the first token it is state 3, with the signal; who waits is served."""
    server, client = loaded()
    other = server.connect()
    start(client, 1, **ENDLESS)
    assert client.receive()["result"]["_callback_state"] == 0
    start(other, 2)
    assert other.ask("rkllm.is_running", id=3)["result"]["is_running"] is True
    os.kill(childOf(server), ending)
    last = lastLine(client, 1)["result"]
    assert last["_callback_state"] == 3
    assert last["error"]["code"] == -32006
    assert last["error"]["data"] == {"retryable": True, "signal": ending.name, "restarting": True}
    assert lastLine(other, 2)["result"]["finish_reason"] == "length"
    start(client, 4)
    assert lastLine(client, 4)["result"]["finish_reason"] == "length"
    assert server.connect().ask("server.status")["result"]["model"] == "tiny.gguf"


def test_death_before_the_first_token(loaded):
    """W-CODES: -32006. A stopped process says nothing; killed, it has said nothing."""
    server, client = loaded()
    child = childOf(server)
    os.kill(child, signal.SIGSTOP)
    start(client, 1)
    assert client.ask("rkllm.is_running", id=2)["result"]["is_running"] is True
    os.kill(child, signal.SIGKILL)
    error = lastLine(client, 1)["error"]
    assert (error["code"], error["data"]) == (-32006, {"retryable": True, "signal": "SIGKILL", "restarting": True})


def test_history_that_died_with_it(loaded):
    """W-HISTORY: told once, by the error of the run or else on the next finish line; others are told nothing."""
    server, client = loaded()
    other = server.connect()
    start(client, 1, keep_history=1)
    assert "history_lost" not in lastLine(client, 1)["result"]
    waitFor(killed(server))
    start(other, 2, keep_history=0)
    assert "history_lost" not in lastLine(other, 2)["result"]
    for id, isTold in ((3, True), (4, False)):
        start(client, id, keep_history=1)
        assert lastLine(client, id)["result"].get("history_lost", False) is isTold
    start(client, 5, keep_history=1, **ENDLESS)
    client.receive()
    killed(server)
    assert lastLine(client, 5)["result"]["error"]["data"]["history_lost"] is True
    start(client, 6, keep_history=1)
    assert "history_lost" not in lastLine(client, 6)["result"]


def killed(server, ending=signal.SIGKILL):
    child = childOf(server)
    os.kill(child, ending)
    return child


def test_hang(loaded):
    """W-CODES: -32006 with hung."""
    server, client = loaded("--token-limit", "0.5")
    start(client, 1, **ENDLESS)
    client.receive()
    os.kill(childOf(server), signal.SIGSTOP)
    error = lastLine(client, 1)["result"]["error"]
    assert error["data"] == {"retryable": True, "hung": "decode took too long", "restarting": True}
    start(client, 2)
    assert lastLine(client, 2)["result"]["finish_reason"] == "length"


def test_crash_loop_ends_and_the_next_init_tries_again(loaded, model):
    """W-CODES: -32006 that says what to do."""
    server, client = loaded("--max-crashes", "2")
    waitFor(killed(server))
    start(client, 1)
    assert lastLine(client, 1)["result"]["finish_reason"] == "length"
    killed(server)
    server.readUntil("2 times within")
    start(client, 2)
    error = lastLine(client, 2)["error"]
    assert (error["code"], error["data"]["restarting"]) == (-32006, False)
    assert "rkllm.init" in error["message"]
    assert client.ask("rkllm.init", {"model_path": str(model), "max_new_tokens": 3}, id=3)["result"]["success"] is True
    start(client, 4)
    assert lastLine(client, 4)["result"]["finish_reason"] == "length"


def test_killed_daemon_leaves_nothing_that_keeps_the_next_from_working(loaded, daemon):
    """W-SOCKET: neither the socket, nor the lock, nor the process of its runtime."""
    server, client = loaded()
    start(client, 1, **ENDLESS)
    client.receive()
    child = childOf(server)
    server.process.kill()
    server.process.wait()
    waitFor(child)
    assert {os.path.basename(server.path), os.path.basename(server.path) + ".flock"} <= set(
        os.listdir(os.path.dirname(server.path))
    )
    following = daemon("--backend", "scripted")
    assert "result" in following.connect().ask("rkllm.get_constants")
    assert following.stop() == -signal.SIGTERM
    assert os.listdir(os.path.dirname(server.path)) == []


def test_child_ends_with_the_daemon_while_it_is_stopped(loaded):
    """The kernel kills it, whatever it is doing."""
    server, _ = loaded()
    child = childOf(server)
    os.kill(child, signal.SIGSTOP)
    server.process.kill()
    waitFor(child)


def test_stop_ends_the_child(loaded):
    server, client = loaded()
    start(client, 1, **ENDLESS)
    client.receive()
    child = childOf(server)
    assert server.stop() == -signal.SIGTERM
    assert lastLine(client, 1)["result"]["finish_reason"] == "abort"
    waitFor(child)


def test_model_below_an_allowed_directory_comes_back_after_a_crash(daemon, model, tmp_path):
    """W-CODES: -32007 elsewhere. The child opens what the daemon has opened, also the second child."""
    (tmp_path / "secret.gguf").write_bytes(model.read_bytes())
    server = daemon("--backend", "llamacpp:threads=1", "--model-root", str(model.parent))
    client = server.connect()
    error = client.ask("rkllm.init", {"model_path": str(tmp_path / "secret.gguf")})["error"]
    assert error["code"] == -32007
    assert client.ask("rkllm.init", {"model_path": "tiny.gguf", "max_new_tokens": 3})["result"]["success"] is True
    waitFor(killed(server))
    start(client, 1)
    assert lastLine(client, 1)["result"]["finish_reason"] == "length"


# The log


def test_prompts_and_answers_are_not_logged(loaded):
    """At any level: Twisted's own log file has debug events too. Neither when all goes well nor when it does not."""
    server, client = loaded()
    prompt = {"prompt_input": f"say {MARK}"}
    client.send("rkllm.run", prompt, id=1)
    answer = "".join(line["text"] or "" for line in client.stream(1))
    assert answer
    client.send("rkllm.run", {**prompt, MARK: 1}, id=2)
    assert MARK in client.receive()["error"]["message"]
    client.send("rkllm.set_chat_template", f"system {MARK}", "", "", id=3)
    client.receive()
    client.send(f"rkllm.{MARK}", id=4)
    client.receive()
    client.socket.sendall(f'{{"{MARK}\n'.encode())
    client.receive()
    client.send("rkllm.run", prompt, ENDLESS, id=5)
    client.receive()
    killed(server)
    lastLine(client, 5)
    start(client, 6)
    lastLine(client, 6)
    server.stop()
    log = "".join(server.log)
    assert "connection from pid" in log  # a debug event
    assert "SIGKILL" in log
    assert MARK not in log


def test_control_characters_in_names_do_not_reach_the_log(loaded, model, tmp_path):
    """A client names files, and could name them so that a terminal does what it says, or a line looks like another."""
    server, client = loaded()
    evil = tmp_path / "evil\x1b[2J\r\nforged: line\x9b31m.gguf"
    evil.write_bytes(model.read_bytes())
    for path in (str(evil), str(tmp_path / "no\x1b[31m\nforged: none")):
        client.send("rkllm.init", {"model_path": path, "max_new_tokens": 3}, id=1)
        client.receive()
        client.send("rkllm.load_lora", {"lora_adapter_path": path, "lora_adapter_name": "a\x1b[1m\nforged: a"}, id=2)
        client.receive()
        client.send("rkllm.load_prompt_cache", path, id=3)
        client.receive()
    assert client.ask("rkllm.init", {"model_path": str(evil), "max_new_tokens": 3})["result"]["success"] is True
    evil.unlink()
    killed(server)
    server.readUntil("cannot be loaded again")
    other = server.connect()
    start(other, 1)
    error = lastLine(other, 1)["error"]
    assert (error["code"], error["data"]["restarting"]) == (-32006, False)
    assert "its file: no such file or directory" in error["message"]
    assert "evil" not in error["message"]  # a path that this client has not sent
    server.stop()
    log = "".join(server.log)
    assert not [line for line in log.splitlines() if line.strip().startswith("forged")]
    assert [character for character in log if not character.isprintable() and character not in "\n\t"] == []

"""The whole way, from a socket to a real model and back."""

import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.daemon import BIN, needsModel

QUESTION = {"input_type": 0, "prompt_input": "What is the capital of France?"}
MODEL = {"model_path": "smollm2", "max_context_len": 512, "max_new_tokens": 32, "top_k": 1}

NODE = """
const socket = require('net').connect(process.argv[1]);
let rest = '', text = '';
const ask = (id, method, params) => socket.write(JSON.stringify({jsonrpc: '2.0', id, method, params}) + '\\n');
socket.on('data', data => {
  const lines = (rest + data).split('\\n');
  rest = lines.pop();
  for (const line of lines) {
    const {id, result, error} = JSON.parse(line);
    if (error) throw new Error(error.message);
    if (id === 1) ask(2, 'rkllm.run_async', [null, %s, {mode: 0}, null]);
    else if (result._callback_state === 0) text += result.text;
    else if (result._callback_state === 2) { console.log(text); socket.end(); }
  }
});
ask(1, 'rkllm.init', [null, %s, null]);
"""


@needsModel
def test_real_model_answers_over_the_socket(daemon):
    """W-STREAM, W-FINISH, W-SOCKET."""
    server = daemon("--backend", "llamacpp:threads=1")
    assert stat.S_IMODE(os.stat(server.path).st_mode) == 0o600
    client = server.connect()
    assert client.ask("rkllm.init", None, MODEL, None)["result"]["success"] is True
    client.send("rkllm.run", None, QUESTION, {"mode": 0}, None)
    *tokens, end = client.stream()
    assert "Paris" in "".join(token["text"] or "" for token in tokens)
    assert end["finish_reason"] == "stop"
    assert end["perf"]["prefill_tokens"] > 10
    assert end["perf"]["generate_tokens"] == len(tokens) - 1
    assert all(end["perf"][figure] > 0 for figure in ("prefill_time_ms", "generate_time_ms", "memory_usage_mb"))
    client.close()
    server.stop()
    assert not os.path.exists(server.path)


@needsModel
def test_abort_of_a_real_generation(daemon):
    """W-ABORT."""
    client = daemon().connect()
    client.ask("rkllm.init", None, {**MODEL, "max_new_tokens": -1, "ignore_eos_token": True}, None)
    client.send("rkllm.run", None, QUESTION, None, None)
    client.receive()
    client.send("rkllm.abort", None, id=2)
    ids, last = [], {}
    while 2 not in ids or last.get("_callback_state") != 2:
        message = client.receive()
        ids.append(message["id"])
        last = message["result"] if message["id"] == 1 else last
    assert last["finish_reason"] == "abort"
    client.send("rkllm.run", None, QUESTION, {"max_new_tokens": 2}, None, id=3)
    assert client.stream(3)[-1]["finish_reason"] == "length"


@needsModel
@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_node_client(daemon):
    """A client of the C server, as its README shows it."""
    server = daemon("--model", "smollm2")
    script = NODE % (str(QUESTION), str(MODEL))
    done = subprocess.run(["node", "-e", script, server.path], capture_output=True, text=True, timeout=120)
    assert "Paris" in done.stdout, done.stderr


def test_model_that_is_none_leaves_the_daemon_serving(daemon, tmp_path):
    """W-CODES: -32005."""
    (tmp_path / "text.gguf").write_text("this is no model")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    client = daemon("--backend", "llamacpp").connect()
    for path in (tmp_path / "missing.gguf", tmp_path, tmp_path / "text.gguf", tmp_path / "cut.gguf", "nosuchname"):
        error = client.ask("rkllm.init", None, {"model_path": str(path)}, None)["error"]
        assert error["code"] == -32005
        assert error["data"]["reason"]
    assert client.ask("rkllm.is_running")["result"]["is_running"] is False


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_cleanly_while_a_generation_runs(daemon, ending):
    """W-SOCKET, W-LAST."""
    server = daemon("--backend", "scripted:interval=30", "--model", "any")
    client = server.connect()
    client.send("rkllm.run", None, {"prompt_input": "one"}, None, None)
    assert client.ask("rkllm.is_running", id=2)["result"]["is_running"] is True
    client.send("rkllm.run", None, {"prompt_input": "two"}, None, None, id=3)
    client.ask("rkllm.get_constants", id=4)
    # twistd hands the signal on to itself when all is done, so that whoever started it sees why it ended.
    assert server.stop(ending) == -ending
    assert "Server Shut Down" in server.log[-1]
    assert {client.receive()["id"]: None, client.receive()["id"]: None} == {1: None, 3: None}
    assert client.file.readline() == b""
    assert os.listdir(os.path.dirname(server.path)) == []


def test_twist_runs_it_too(daemon):
    server = daemon("--backend", "scripted", runner=("twist",))
    assert "result" in server.connect().ask("rkllm.get_constants")
    server.stop()
    assert not os.path.exists(server.path)


def test_killed_daemon_does_not_keep_the_next_from_starting(daemon):
    """W-SOCKET."""
    first = daemon("--backend", "scripted")
    first.stop(signal.SIGKILL)
    assert os.path.exists(first.path)
    second = daemon("--backend", "scripted")
    assert "result" in second.connect().ask("rkllm.get_constants")
    second.stop()
    assert not os.path.exists(first.path)


def test_limit_of_clients_from_the_environment(daemon):
    """W-CLIENTS."""
    server = daemon("--backend", "scripted", environ={"RKLLM_MAX_CLIENTS": "1"})
    first = server.connect()
    first.ask("rkllm.is_running")
    assert server.connect().receive()["error"]["code"] == -32001


@pytest.mark.parametrize(
    "arguments", [["--backend", "nope"], ["--listen", "unix:/nonexistent/s"], ["--max-queue", "x"]]
)
@pytest.mark.parametrize("runner", [["twistd", "-n", "--pidfile="], ["twist"]])
def test_bad_options_end_with_one_clear_line(runner, arguments, tmp_path):
    command = [str(BIN / runner[0]), *runner[1:], "rkllm", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("rkllm: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.skipif(shutil.which("nc") is None, reason="nc is not installed")
def test_shell_client(daemon):
    server = daemon("--backend", "scripted")
    request = '{"jsonrpc":"2.0","id":1,"method":"rkllm.get_constants"}'
    command = f"echo '{request}' | nc -N -U {server.path}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
    assert '"RKLLM_RUN_FINISH":2' in done.stdout, done.stderr


def test_daemonized(tmp_path):
    """Without -n: a daemon in the background, with a log and a process id."""
    path = tmp_path / "s"
    command = [str(BIN / "twistd"), "rkllm", "--backend", "scripted", "--listen", f"unix:{path}"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    log, pid = tmp_path / "twistd.log", int((tmp_path / "twistd.pid").read_text())
    try:
        assert "Server started successfully" in log.read_text()
    finally:
        os.kill(pid, signal.SIGTERM)
        subprocess.run(["tail", f"--pid={pid}", "-f", "/dev/null"], timeout=30)
    assert not path.exists()


def test_daemonized_that_cannot_listen(tmp_path):
    """Whoever has started it is told so, and does not wait for a daemon that is gone."""
    command = [str(BIN / "twistd"), "rkllm", "--backend", "scripted"]
    twice = [f"--listen=unix:{tmp_path}/s", f"--listen=unix:{tmp_path}//s"]  # one path, seen only when it listens
    ended, held = os.pipe()  # the daemon holds one end for as long as it lives
    done = subprocess.run([*command, *twice], cwd=tmp_path, capture_output=True, text=True, timeout=60, pass_fds=[held])
    os.close(held)
    with open(ended, "rb") as pipe:
        assert pipe.read() == b""
    assert done.returncode == 1
    assert "NotStarted: rkllm: " in done.stderr  # of the rest twistd reads 100 bytes
    log = (tmp_path / "twistd.log").read_text()
    assert f"rkllm: {tmp_path}//s: another daemon holds it" in log
    assert "Traceback" not in log
    assert not (tmp_path / "twistd.pid").exists()


def test_command_of_the_package(daemon):
    """``rkllm`` against the daemon."""
    server = daemon("--backend", "scripted", "--model", "any")
    run = [sys.executable, "-m", "rkllm_twisted.cli", "run", "--socket", server.path, "--stats", "one two three"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("one two three\n", 0), done.stderr
    assert "first token" in done.stderr
    assert Path(server.path).exists()

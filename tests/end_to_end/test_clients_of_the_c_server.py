"""Programs that were written for the C server, in the ways they were written, against the daemon.

They are in the directory ``clients``: programs of Node, which know nothing of this package.
"""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.daemon import needsModel

CLIENTS = Path(__file__).with_name("clients")

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


def runClient(name, *arguments):
    """What the program of this name received."""
    command = ["node", str(CLIENTS / f"{name}.js"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def server(daemon):
    return daemon("--backend", "scripted")


def brief(message):
    """The id and what matters of an answer."""
    if "error" in message:
        return message["id"], message["error"]["code"]
    result = message["result"]
    if "_callback_state" not in result:
        return message["id"], result.get("success", result)
    return message["id"], result["text"] if result["_callback_state"] == 0 else result["finish_reason"]


def test_requests_of_the_readme(server):
    """W-PARAMS, W-STREAM, W-FINISH, W-LINE: init without the handle, run_async with it, load_lora without it."""
    received = runClient("lines", server.path, "./models/gemma3/model.rkllm", "Hello, how are you today?")
    words = ["Hello,", " how", " are", " you", " today?"]
    assert [brief(message) for message in received] == [
        (1, True),
        (2, True),
        *((2, word) for word in words),
        (2, "stop"),
        (3, -32008),
    ]
    assert received[-1]["error"]["data"]["needs"] == "load_lora"


@needsModel
def test_requests_of_the_readme_to_a_real_model(daemon):
    """W-PARAMS, W-STREAM, W-UTF8."""
    received = runClient("lines", daemon("--backend", "llamacpp").path, "smollm2", "What is the capital of France?")
    assert received[0]["result"]["success"] is True
    assert set(received[1]["result"]) == {"success", "message"}
    *tokens, end = [message["result"] for message in received if message["id"] == 2][1:]
    assert "Paris" in "".join(token["text"] or "" for token in tokens)
    assert (end["_callback_state"], end["text"]) == (2, None)
    assert received[-1]["id"] == 3


@pytest.mark.parametrize("way", ["each", "packet", "pieces"])
def test_requests_without_line_feeds(server, way):
    """W-BARE, W-SPLIT, W-STATE: each by itself, all in one packet, in small pieces that end anywhere."""
    received = runClient("bare", server.path, way)
    assert [brief(message) for message in received] == [
        ("load", True),
        ("run", "a"),
        ("run", " }"),
        ("run", ' "]'),
        ("run", " b"),
        ("run", "stop"),
        ("free", True),
    ]


def test_client_that_takes_the_first_document_and_leaves(server):
    """W-BARE, W-MODEL, W-GONE: the first line of run is data, that of run_async says that it was accepted."""
    received = runClient("first_document", server.path)
    assert [message["id"] for message in received] == list(range(100, 106))
    loaded, constants, run, runAsync, unknown, isRunning = received
    assert brief(loaded) == (100, True)
    assert constants["result"]["LLM_CALL_STATES"]["RKLLM_RUN_FINISH"] == 2
    assert brief(run) == (102, "one")
    assert set(runAsync["result"]) == {"success", "message"}
    assert brief(unknown) == (104, -32601)
    assert isRunning["result"]["status_code"] == 0


def test_client_that_counts_braces(server):
    """W-LINE, W-STREAM, W-ID: braces in texts and ids are inside of strings."""
    received = runClient("braces", server.path)
    answers = [message for message in received if message["id"] != "}{"]
    assert len(answers) == len(received) - 1
    assert [brief(message) for message in answers] == [
        (1, True),
        (2, True),
        (2, "{"),
        (2, ' "}"'),
        (2, " \\"),
        (2, " 🦊"),
        (2, " }}"),
        (2, "stop"),
    ]

"""Every transcript of docs/reference/functions.md, played with llama.cpp and tiny models."""

import base64
import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from rkllm_twisted.backends.llamacpp import makeBackend, unusable
from rkllm_twisted.backends.threaded import ThreadedBackend
from rkllm_twisted.testing.peers import Server
from tests.playing import WithGaps, optionsOf
from tests.tiny_model import writeAdapter, writeModel

pytestmark = pytest.mark.skipif(unusable() is not None, reason=f"llama.cpp cannot run here: {unusable()}")

PAGE = (Path(__file__).parent.parent / "docs/reference/functions.md").read_text()
BLOCKS = re.findall(r"^(#+ [^\n]*)$|^```transcript\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PATIENCE = 60.0


def blocks():
    """The transcripts, each with the heading above it."""
    heading, count = "", 0
    for title, block in BLOCKS:
        if title:
            heading, count = title.strip("# "), 0
        else:
            count += 1
            yield pytest.param(block, id=f"{heading} {count}")


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """The files that the page names."""
    directory = tmp_path_factory.mktemp("files")
    writeModel(directory / "cycle.gguf", style="cycle")
    writeModel(directory / "ending.gguf", style="cycle", eosAfter="m")
    writeModel(directory / "random.gguf", style="random")
    writeAdapter(directory / "cycle-lora.gguf", style="cycle")
    writeAdapter(directory / "other-lora.gguf", style="cycle", arch="gpt2")
    return directory


@pytest.fixture
def play(files, tmp_path, monkeypatch):
    """A function that plays a transcript in a directory of its own with these files."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    async def play(text):
        clock = Clock()
        backend = ThreadedBackend(makeBackend({"threads": "1", "seed": "1"}))
        server = Server(backend, clock, **{name: int(value) for name, value in optionsOf(text).items()})
        played = PatientTranscript(text, server)
        try:
            await played.load(text)
            await played.play()
        finally:
            await server.runtime.shutDown()

    return play


class PatientTranscript(WithGaps):
    """Waits for what the model says, and looks at its tensors."""

    async def load(self, text):
        """Load the model that the transcript names, as rkllm.init would."""
        found = re.search(r"^# Model: (\w+)", text, re.MULTILINE)
        if found:
            given = {name: msgspec.json.decode(value) for name, value in optionsOf(text, "Model").items()}
            params = {"model_path": f"{found[1]}.gguf", "top_k": 1, "repeat_penalty": 1.0, "max_new_tokens": 6, **given}
            peer = self._peer("harness")
            peer.send({"jsonrpc": "2.0", "id": 0, "method": "rkllm.init", "params": [params]})
            await self._expect("harness", '{"jsonrpc":"2.0","id":0,"result":"…"}', "the init")

    def _peer(self, name):
        isNew = name not in self._peers
        peer = super()._peer(name)
        if isNew:
            peer.transport.write = Announcing(peer.transport)
        return peer

    async def arrival(self, name):
        came = self._peers[name].transport.write.arrival()
        await came.addTimeout(PATIENCE, reactor)
        return True

    async def ended(self):
        await self._server.runtime.shutDown()

    def agrees(self, expected, came):
        checkTensors(came)
        return super().agrees(expected, came)

    def command(self, line):
        subprocess.run(["bash", "-ec", line], check=True)


class Announcing:
    """The ``write`` of a transport in memory, which tells when whole lines have been written."""

    def __init__(self, transport):
        self._write = transport.write
        self._transport = transport
        self._waiting = []

    def __call__(self, data):
        self._write(data)
        if data.endswith(b"\n"):
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                # Not from inside the server, which is still busy with this line.
                deferLater(reactor, 0).chainDeferred(each)

    def arrival(self):
        """Fires when the next line has come."""
        self._waiting.append(Deferred())
        return self._waiting[-1]


def checkTensors(line):
    """A tensor, which a transcript leaves out, has as many numbers as the line says."""
    result = line.get("result")
    if isinstance(result, dict) and "logits" in result:
        for tensor, values, width in (
            (result["logits"], "logits", "vocab_size"),
            (result["last_hidden_layer"], "hidden_states", "embd_size"),
        ):
            count, numbers = tensor["num_tokens"] * tensor[width], tensor[values]
            if isinstance(numbers, dict):
                assert numbers["dtype"] == "<f4"
                assert numbers["shape"] == [tensor["num_tokens"], tensor[width]]
                assert len(base64.b64decode(numbers["data"], validate=True)) == 4 * count
            else:
                assert len(numbers or []) == count


@pytest.mark.parametrize("block", list(blocks()))
@pytest_twisted.ensureDeferred
async def test_transcript(block, play):
    await play(block)


@pytest.mark.parametrize(
    "wrong",
    [
        '<-- {"jsonrpc":"2.0","id":1,"result":{"is_running":true,"status_code":0}}',
        '<-- {"jsonrpc":"2.0","id":1,"result":{"is_running":false}}',
        '<-- {"jsonrpc":"2.0","id":1,"result":{"is_running":0,"status_code":0}}',
        "",
    ],
)
@pytest_twisted.ensureDeferred
async def test_transcript_that_is_wrong_fails(wrong, play):
    with pytest.raises(AssertionError):
        await play('--> {"jsonrpc":"2.0","id":1,"method":"rkllm.is_running"}\n' + wrong)


def test_every_function_is_on_the_page():
    functions = {
        "createDefaultParam",
        "init",
        "load_lora",
        "load_prompt_cache",
        "release_prompt_cache",
        "destroy",
        "run",
    }
    functions |= {"run_async", "abort", "is_running", "clear_kv_cache", "get_kv_cache_size", "set_chat_template"}
    functions |= {"set_function_tools", "set_cross_attn_params", "get_constants"}
    assert len(functions) == 16
    asked = set(re.findall(r'--> \{[^\n]*"method":"rkllm\.(\w+)"', PAGE))
    assert functions - asked == set()

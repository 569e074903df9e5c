"""What the vendor's library does wrong, as a client of the daemon sees it; the stand-in does so when it is told to."""

import re
from pathlib import Path

import pytest

from tests.end_to_end.daemon import BIN
from tests.standins import needsCompiler, overheard, standin

pytestmark = needsCompiler

ASK = {"prompt_input": "one two three"}


@pytest.fixture
def library(tmp_path, monkeypatch):
    """The stand-in; the daemon inherits the variables that script it."""
    yield from overheard(tmp_path, monkeypatch)


@pytest.fixture
def served(daemon, library):
    """A daemon and a client that has loaded a model, which the library has done as it was scripted."""

    def served(script, *arguments, **options):
        library.script(script)
        server = daemon("--backend", f"rkllm:library={standin('1.3')}", *arguments, **options)
        client = server.connect()
        return server, client, client.ask("rkllm.init", {"model_path": library.model}, id=0)

    return served


def test_model_that_fails_in_its_first_run(served, library):
    """W-CODES, W-MODEL: init says yes to a bad model, then each run aborts the process, until there are too many."""
    server, client, loaded = served("init=zombie", "--max-crashes", "2")
    assert loaded["result"]["success"] is True
    for id, isRestarting in ((1, True), (2, False)):
        error = client.ask("rkllm.run", ASK, id=id)["error"]
        assert error["code"] == -32006
        assert error["data"] == {"retryable": True, "signal": "SIGABRT", "restarting": isRestarting}
    assert "load the model again with rkllm.init" in client.ask("rkllm.run", ASK, id=3)["error"]["message"]
    library.script("")
    assert client.ask("rkllm.init", {"model_path": library.model}, id=4)["result"]["success"] is True
    client.send("rkllm.run", ASK, id=5)
    assert client.stream(5)[-1]["finish_reason"] == "stop"
    server.stop()
    assert len([line for line in server.log if "the model is lost: its process was killed by SIGABRT" in line]) == 2


@pytest.mark.parametrize(
    ("crash", "data"),
    [
        ("exit", {"exit_code": 1}),  # 1.0.0, issue 31
        ("segv", {"signal": "SIGSEGV"}),  # too little memory of the NPU, issue 522
    ],
)
def test_init_that_ends_the_process(served, library, crash, data):
    """W-CODES, W-MODEL: there is no model then, and the next init is as good as the first."""
    server, client, loaded = served(f"crash={crash}@init")
    assert loaded["error"]["code"] == -32006
    assert loaded["error"]["data"] == {"retryable": True, "restarting": False, **data}
    assert client.ask("rkllm.run", ASK, id=1)["error"]["code"] == -32000
    library.script("")
    assert client.ask("rkllm.init", {"model_path": library.model}, id=2)["result"]["success"] is True
    server.stop()
    assert "the model is lost" not in "".join(server.log)


def test_driver_that_is_too_old(served):
    """Only a warning of the library's, and then wrong text: both are handed on, since nothing else tells."""
    server, client, _ = served("version=1.3.0, rknpu driver version: 0.8.2;tokens=!|!|!")
    client.send("rkllm.run", ASK, id=1)
    assert "".join(line["text"] or "" for line in client.stream(1)) == "!!!"
    server.stop()
    assert re.search(r"rkllm_twisted\.runtime#info\] stderr: .*rknpu driver version: 0\.8\.2", "".join(server.log))


def test_second_model_takes_the_place_of_the_first(served, library):
    """W-MODEL: two at once give wrong text in some releases, and there are never two."""
    server, client, _ = served("")
    other = library.writeModel("other.rkllm")
    assert client.ask("rkllm.init", {"model_path": other}, id=1)["result"]["success"] is True
    assert client.ask("server.status", id=2)["result"]["model"] == "other.rkllm"
    assert library.calls() == ["rkllm_init", "rkllm_destroy", "rkllm_init"]
    server.stop()


def test_disk_that_is_full(served, tmp_path):
    """W-CODES: -32004, and half a cache is in nobody's way. A limit of the size of files is the disk."""
    twistd = ("prlimit", "--fsize=30", str(BIN / "twistd"), "-n", "--pidfile=")
    server, client, _ = served("", runner=twistd, bin=Path("/usr/bin"), environ={"RKLLM_STANDIN_LOG": "/dev/null"})
    place = tmp_path / "caches"
    place.mkdir()
    saving = {"save_prompt_cache": 1, "prompt_cache_path": str(place / "cache")}
    client.send("rkllm.run", {"prompt_input": "word " * 20}, {"prompt_cache_params": saving}, id=1)
    *_, last = client.stream(1)
    assert (last["error"]["code"], last["_callback_state"]) == (-32004, 3)
    assert "the prompt cache cannot be saved: file too large" in last["error"]["message"]
    assert list(place.iterdir()) == []
    client.send("rkllm.run", ASK, id=2)
    assert client.stream(2)[-1]["finish_reason"] == "stop"
    server.stop()

"""Which files a client may name."""

import os
import threading
from pathlib import Path

import pytest
import pytest_twisted
from msgspec import structs
from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure

from rkllm_twisted.backends.scripted import ScriptedBackend, ScriptedModel
from rkllm_twisted.errors import ModelLoadFailed, NotPermitted, RuntimeCallFailed
from rkllm_twisted.methods.roots import OpenedFile, Roots
from rkllm_twisted.testing.peers import Server
from rkllm_twisted.values import Capability

WHERE = "$.param.model_path"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory that is allowed, with a file, beside one that is not; the working directory is neither."""
    for path, text in {
        "allowed/model": "good",
        "allowed/below/model": "also good",
        "secret/model": "secret",
        "work/smollm2": "in the working directory",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


@pytest.fixture(autouse=True)
def _flat():
    """Every descriptor that a test opens is closed at its end."""
    pytest_twisted.blockon(deferLater(reactor, 0))  # the reactor runs, and has opened what it needs
    before = descriptors()
    opened = []
    original = Roots.__init__

    def remembering(self, directories=()):
        original(self, directories)
        opened.extend(descriptor for _, descriptor in self._roots)

    Roots.__init__ = remembering
    yield
    Roots.__init__ = original
    for descriptor in opened:
        os.close(descriptor)
    assert descriptors() == before


def descriptors():
    listed = os.listdir("/proc/self/fd")
    return {number for number in listed if os.path.lexists(f"/proc/self/fd/{number}")}  # without that of the directory


def read(file):
    """What a runtime would read, by the name that it is given."""
    with open(file.path) as opened:
        text = opened.read()
    file.close()
    return text


def refused(roots, path, order="file"):
    with pytest.raises(NotPermitted) as raised:
        getattr(roots, order)(str(path), WHERE)
    assert raised.value.detail.startswith(WHERE)
    assert "/proc" not in raised.value.detail
    return raised.value.detail


# Names


def test_file_below(place):
    roots = Roots([str(place / "allowed")])
    for path in ("allowed/model", "allowed//./model", "./allowed/model"):
        assert read(roots.file(f"{place}/{path}", WHERE)) == "good"
    assert read(roots.file(f"{place}/allowed/below/model", WHERE)) == "also good"


def test_what_the_runtime_gets_is_the_open_file(place):
    file = Roots([str(place / "allowed")]).file(str(place / "allowed/model"), WHERE)
    assert os.path.samefile(file.path, place / "allowed/model")
    assert file.path.startswith(f"/proc/{os.getpid()}/fd/")  # of this process: a child opens it too
    file.close()
    file.close()
    assert not os.path.exists(file.path)


@pytest.mark.parametrize(
    "path",
    [
        "{}/secret/model",
        "{}/allowed/../secret/model",
        "{}/allowed/below/../../secret/model",
        "{}/allowed/below/../model",
        "{}/allowed/..",
        "{}/allowed",
        "{}/allowed/",
        "{}/allowedmodel",
        "{}/allowed\0/model",
        "..",
        "../secret/model",
        "below/../../secret/model",
        "/",
        "",
        ".",
        "/etc/passwd",
        "/proc/self/root{}/secret/model",
        "//{}/secret/model",
    ],
)
def test_names_that_lead_elsewhere(place, path):
    roots = Roots([str(place / "allowed")])
    refused(roots, path.format(place))
    refused(roots, path.format(place), "place")


def test_file_that_is_not_there_is_no_other_error_than_for_one_that_may_not_be_seen(place):
    """Outside nothing is looked at, so nobody learns what is there."""
    roots = Roots([str(place / "allowed")])
    assert refused(roots, place / "secret/model") == refused(roots, place / "secret/nothing")
    with pytest.raises(FileNotFoundError):
        roots.file(str(place / "allowed/nothing"), WHERE)


def test_relative_names_are_below_any_directory(place):
    (place / "secret/other").write_text("from the second")
    roots = Roots([str(place / "allowed"), str(place / "secret")])
    assert read(roots.file("model", WHERE)) == "good"
    assert read(roots.file("./below/model", WHERE)) == "also good"
    assert read(roots.file("other", WHERE)) == "from the second"
    with pytest.raises(FileNotFoundError):
        roots.file("below/nothing", WHERE)


def test_several_directories(place):
    roots = Roots([str(place / "allowed/below"), str(place / "secret")])
    assert read(roots.file(str(place / "secret/model"), WHERE)) == "secret"
    assert read(roots.file(str(place / "allowed/below/model"), WHERE)) == "also good"
    refused(roots, place / "allowed/model")


def test_directory_within_another(place):
    roots = Roots([str(place), str(place / "allowed")])
    assert read(roots.file(str(place / "secret/model"), WHERE)) == "secret"


def test_short_names(place):
    """One without a slash may be the backend's own; but not where it would be a file in the working directory."""
    roots = Roots([str(place / "allowed")])
    assert roots.file("qwen", WHERE).path == "qwen"
    with pytest.raises(FileNotFoundError):
        roots.file("smollm2", WHERE)
    os.symlink("nowhere", "dangling")
    with pytest.raises(FileNotFoundError):
        roots.file("dangling", WHERE)


def test_without_directories_all_is_handed_on():
    assert Roots().file("../x", WHERE).path == "../x"
    assert Roots().place("/anywhere/x", WHERE).path == "/anywhere/x"


def test_directory_that_is_none(place):
    for path in (place / "nothing", place / "allowed/model"):
        with pytest.raises(OSError, match=r"No such file|Not a directory"):
            Roots([str(path)])


def test_directory_under_its_own_name_and_the_operators(place):
    (place / "link").symlink_to("allowed")
    roots = Roots([str(place / "link")])
    for name in ("link", "allowed"):
        assert read(roots.file(str(place / name / "model"), WHERE)) == "good"


# Symbolic links


@pytest.mark.parametrize(
    ("link", "target", "path"),
    [
        ("allowed/out", "../secret/model", "allowed/out"),
        ("allowed/out", "../secret", "allowed/out/model"),
        ("allowed/below/out", "/etc", "allowed/below/out/passwd"),
        ("allowed/inside", "model", "allowed/inside"),  # also where it leads nowhere bad: it may be changed
        ("allowed/inside", "below", "allowed/inside/model"),
        ("allowed/proc", "/proc/self/fd", "allowed/proc/0"),
    ],
)
def test_symbolic_links(place, link, target, path):
    (place / link).symlink_to(target)
    roots = Roots([str(place / "allowed")])
    assert "symbolic link" in refused(roots, place / path)
    assert "symbolic link" in refused(roots, place / path, "place")


def test_file_on_the_way(place):
    with pytest.raises(NotADirectoryError):
        Roots([str(place / "allowed")]).file(str(place / "allowed/model/x"), WHERE)


# Races


def test_file_that_is_exchanged_after_the_check(place):
    """The runtime opens what was checked, whatever the name leads to by then."""
    file = Roots([str(place / "allowed")]).file(str(place / "allowed/model"), WHERE)
    (place / "allowed/model").unlink()
    (place / "allowed/model").symlink_to("../secret/model")
    assert read(file) == "good"


def test_directory_that_is_exchanged_after_the_check(place):
    roots = Roots([str(place / "allowed")])
    file, target = roots.file("below/model", WHERE), roots.place("below/new", WHERE)
    (place / "allowed/below").rename(place / "allowed/was")
    (place / "allowed/below").symlink_to("../secret")
    assert read(file) == "also good"
    Path(target.path).write_text("cache")
    target.close()
    assert (place / "allowed/was/new").read_text() == "cache"
    assert not (place / "secret/new").exists()


def test_directory_that_is_moved_out_while_it_is_walked(place, monkeypatch):
    """An attacker acts between any two steps."""
    original = os.open
    steps = []

    def step(path, flags, *arguments, **more):
        steps.append(path)
        if path == "model":
            (place / "allowed/below").rename(place / "gone")
            (place / "allowed/below").symlink_to("../secret")
        return original(path, flags, *arguments, **more)

    roots = Roots([str(place / "allowed")])
    monkeypatch.setattr(os, "open", step)
    file = roots.file("below/model", WHERE)
    monkeypatch.undo()
    assert steps == [".", "below", "model"]
    assert read(file) == "also good"


def test_attacker_who_swaps_all_the_time(place):
    """A thread exchanges a directory for a link and back as fast as it can: the secret is never read."""
    roots = Roots([str(place / "allowed")])
    (place / "allowed/link").symlink_to("../secret")
    isOver = threading.Event()

    def attack():
        below, link, spare = (place / "allowed" / name for name in ("below", "link", "spare"))
        while not isOver.is_set():
            for names in ((below, spare), (link, below), (below, link), (spare, below)):
                names[0].rename(names[1])

    attacker = threading.Thread(target=attack)
    attacker.start()
    outcomes = set()
    try:
        for _ in range(200_000):
            try:
                outcomes.add(read(roots.file("below/model", WHERE)))
            except (NotPermitted, FileNotFoundError) as error:
                outcomes.add(type(error))
            except NotADirectoryError:
                pass  # a link when it was opened, a directory again when it was looked at
            if len(outcomes) == 3:
                break
    finally:
        isOver.set()
        attacker.join()
    assert outcomes == {"also good", NotPermitted, FileNotFoundError}


# What fails


def test_errors_have_the_name_that_the_client_gave(place):
    file = Roots([str(place / "allowed")]).file("model", WHERE)
    inside = file.path
    failure = file.failed(Failure(ModelLoadFailed(f"{inside}: not a model")))
    assert failure.value.detail == failure.value.data["reason"] == "model: not a model"
    assert not os.path.exists(inside)
    place_ = Roots([str(place / "allowed")]).place("new", WHERE)
    error = place_.named(RuntimeCallFailed(f"{place_.path} cannot be written", function="f", status=-1))
    assert error.detail == "new cannot be written"
    place_.close()
    assert OpenedFile("x").failed(Failure(KeyError("x"))).check(KeyError)


# In the methods


class RecordingBackend(ScriptedBackend):
    """Reads its files as a runtime does, can do more than the scripted one, and loads when the test says so."""

    capabilities = ScriptedBackend.capabilities | {Capability.LORA, Capability.PROMPT_CACHE}

    def __init__(self, clock):
        super().__init__(clock)
        self.read = []
        self.loading = None
        self.error = None
        self.failsIn = ""

    def open(self, path, what=""):
        if self.error is not None and what == self.failsIn:
            raise self.error(path)
        self.read.append(Path(path).read_text())

    def checkParam(self, param):
        self.open(param.model_path, "check")
        return succeed(None)

    def init(self, param):
        self.loading = Deferred()
        return self.loading.addCallback(lambda _: self.model(param))

    def model(self, param):
        self.open(param.model_path, "load")
        return RecordingModel(self)


class RecordingModel(ScriptedModel):
    capabilities = RecordingBackend.capabilities

    def __init__(self, backend):
        super().__init__(backend._clock, backend._script, 0, -1)
        self._backend = backend

    def loadLora(self, adapter):
        return succeed(self._backend.open(adapter.lora_adapter_path))

    def loadPromptCache(self, path):
        return succeed(self._backend.open(path))

    def releasePromptCache(self):
        return succeed(None)

    def run(self, input, inferParam, receiver, delivery):
        cache = inferParam.prompt_cache_params
        if cache is not None:
            if self._backend.error is not None:
                raise self._backend.error(cache.prompt_cache_path)
            Path(cache.prompt_cache_path).write_text("cache")
        return super().run(input, structs.replace(inferParam, prompt_cache_params=None), receiver, delivery)


class Rig:
    """A server with directories, and a peer."""

    def __init__(self, *directories):
        clock = Clock()
        self.backend = RecordingBackend(clock)
        self.server = Server(self.backend, clock, roots=Roots([str(one) for one in directories]))
        self.peer = self.server.connect()
        self.empty = descriptors()

    def opened(self):
        return len(set(descriptors()) - set(self.empty))

    def load(self, path):
        self.peer.send({"jsonrpc": "2.0", "id": 1, "method": "rkllm.init", "params": [{"model_path": str(path)}]})
        if self.backend.loading is not None and not self.backend.loading.called:
            self.backend.loading.callback(None)
        return self.peer.received()[-1]

    def close(self):
        assert self.server.runtime.shutDown().called
        assert not self.opened()


@pytest.fixture
def rig(place):
    rig = Rig(place / "allowed")
    yield rig
    rig.close()


def test_model_is_open_as_long_as_it_is_loaded(rig, place):
    assert rig.load(place / "allowed/model")["result"]["success"] is True
    assert rig.backend.read == ["good"] * 2
    assert rig.opened() == 1
    [status] = rig.peer.ask("server.status")
    assert status["result"]["model"] == "model"
    assert rig.load("below/model")["result"]["success"] is True
    assert rig.opened() == 1
    rig.peer.ask("rkllm.destroy")
    assert rig.opened() == 0


def test_model_elsewhere(rig, place):
    """W-CODES: -32007."""
    error = rig.load(place / "secret/model")["error"]
    assert error["code"] == -32007
    assert error["message"].startswith("not permitted: $.params[0].model_path: expected a path below")
    assert rig.backend.read == []


def test_model_that_is_missing(rig, place):
    error = rig.load(place / "allowed/nothing")["error"]
    assert (error["code"], error["data"]["reason"]) == (-32005, f"{place}/allowed/nothing: no such file or directory")


@pytest.mark.parametrize("where", ["check", "load"])
def test_model_that_fails_is_closed_and_has_its_own_name_in_the_error(rig, place, where):
    rig.backend.failsIn, rig.backend.error = where, lambda path: ModelLoadFailed(f"{path}: is none")
    error = rig.load(place / "allowed/model")["error"]
    assert error["message"] == f"model load failed: {place}/allowed/model: is none"
    assert error["data"]["reason"] == f"{place}/allowed/model: is none"
    assert rig.opened() == 0


def test_waiting_init_that_is_cancelled_is_closed(rig, place):
    for id in ("first", "second"):
        rig.peer.send({"jsonrpc": "2.0", "id": id, "method": "rkllm.init", "params": [{"model_path": "model"}]})
    assert rig.opened() == 2
    rig.peer.send({"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": "second"}})
    [last] = rig.peer.received()
    assert last["error"]["code"] == -32800
    assert rig.opened() == 1
    rig.backend.loading.callback(None)


def test_adapters(rig, place):
    rig.load("model")
    [answer] = rig.peer.ask("rkllm.load_lora", {"lora_adapter_path": "below/model", "lora_adapter_name": "a"})
    assert answer["result"]["success"] is True
    assert rig.opened() == 2
    path = f"{place}/secret/model"
    [answer] = rig.peer.ask("rkllm.load_lora", {"lora_adapter_path": path, "lora_adapter_name": "b"})
    assert answer["error"]["code"] == -32007
    rig.backend.error = lambda path: RuntimeCallFailed(f"{path} is none", function="rkllm_load_lora", status=-1)
    [answer] = rig.peer.ask("rkllm.load_lora", {"lora_adapter_path": "below/model", "lora_adapter_name": "b"})
    assert answer["error"]["message"] == "runtime call failed: below/model is none"
    assert rig.opened() == 2
    [answer] = rig.peer.ask("rkllm.load_lora", {"lora_adapter_path": "nothing", "lora_adapter_name": "b"})
    assert (answer["error"]["code"], answer["error"]["data"]["status"]) == (-32004, -1)


def test_one_prompt_cache_is_open_however_many_are_loaded(rig, place):
    rig.load("model")
    for _ in range(10):
        [answer] = rig.peer.ask("rkllm.load_prompt_cache", f"{place}/allowed/below/model")
        assert answer["result"]["cache_path"] == f"{place}/allowed/below/model"
    assert rig.opened() == 2
    rig.peer.ask("rkllm.release_prompt_cache")
    assert rig.opened() == 1
    [answer] = rig.peer.ask("rkllm.load_prompt_cache", "/etc/passwd")
    assert answer["error"]["code"] == -32007


def saving(path):
    return {"prompt_cache_params": {"save_prompt_cache": 1, "prompt_cache_path": str(path)}}


def test_cache_is_saved_below(rig, place):
    rig.load("model")
    rig.peer.ask("rkllm.run", {"prompt_input": "one"}, saving("below/cache"))
    assert (place / "allowed/below/cache").read_text() == "cache"
    assert rig.opened() == 1
    (place / "allowed/out").symlink_to(place / "secret/model")
    for path in (place / "secret/cache", "../secret/cache", "out", ""):
        [error] = rig.peer.ask("rkllm.run", {"prompt_input": "one"}, saving(path))
        assert error["error"]["code"] == -32007
        assert "prompt_cache_path" in error["error"]["message"]
    [error] = rig.peer.ask("rkllm.run", {"prompt_input": "one"}, saving("nothing/cache"))
    assert error["error"]["message"].endswith("the prompt cache cannot be saved: no such file or directory")
    assert os.listdir(place / "secret") == ["model"]
    assert (place / "secret/model").read_text() == "secret"
    assert rig.opened() == 1


def test_cache_that_cannot_be_saved_has_its_own_name_in_the_error(rig, place):
    rig.load("model")
    rig.backend.error = lambda path: RuntimeCallFailed(f"{path}: no space", function="rkllm_run", status=-1)
    [error] = rig.peer.ask("rkllm.run", {"prompt_input": "one"}, saving("below/cache"))
    assert error["error"]["message"] == "runtime call failed: below/cache: no space"
    assert rig.opened() == 1

"""Backends by name."""

import pytest
from twisted.internet import reactor
from zope.interface.verify import verifyObject

from rkllm_twisted import backends
from rkllm_twisted.backends import (
    BackendMaker,
    NoSuchBackend,
    backendMakers,
    joinDescription,
    located,
    makeBackend,
    splitDescription,
)
from rkllm_twisted.interfaces import IBackendMaker, IModelBackend
from rkllm_twisted.testing.runtimes import ScriptedRuntime


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("llamacpp", ("llamacpp", {})),
        ("llamacpp:threads=2:seed=1", ("llamacpp", {"threads": "2", "seed": "1"})),
        (r"rkllm:library=/a\:b\\c:abi=1.3", ("rkllm", {"library": r"/a:b\c", "abi": "1.3"})),
        ("a:x=", ("a", {"x": ""})),
        ("a:x=y=z", ("a", {"x": "y=z"})),
    ],
)
def test_description(description, expected):
    assert splitDescription(description) == expected
    assert joinDescription(*expected) == description


@pytest.mark.parametrize(
    ("description", "said"), [("a:b", "'b' should be key=value"), ("a:b=1:b=2", "'b' is given twice")]
)
def test_wrong_description(description, said):
    with pytest.raises(ValueError, match=said):
        splitDescription(description)


def test_own_backends_are_found_as_plugins():
    assert {maker.name for maker in backendMakers()} >= {"llamacpp", "scripted"}
    for maker in backendMakers():
        verifyObject(IBackendMaker, maker)


def test_backend_of_a_name():
    verifyObject(IModelBackend, makeBackend("scripted:interval=0.5"))


@pytest.mark.parametrize(
    ("description", "said"),
    [
        ("nope", "no backend is called 'nope'; there are .*scripted"),
        ("scripted:interval=soon", "interval: expected seconds"),
        ("scripted:colour=red", "colour: unknown option"),
    ],
)
def test_backend_that_cannot_be_made(description, said):
    with pytest.raises(ValueError, match=said):
        makeBackend(description)


@pytest.mark.parametrize("description", ["scripted", "scripted:interval=0.5", "unheard-of:path=x"])
def test_description_without_paths_is_located_as_it_is(description):
    assert located(description) == description


def maker(name, preference, reason=None):
    made = BackendMaker(name, "", f"{__name__}.unmade", preference=preference)
    made.unusable = lambda: reason
    made.makeBackend = lambda options: name
    return made


def choose(monkeypatch, *makers):
    monkeypatch.setattr(backends, "getPlugins", lambda interface: makers)
    return makeBackend(None)


def test_most_preferred_usable_backend_serves_unasked(monkeypatch):
    """An NPU's backend before the CPU's, where there is an NPU; a demonstration never."""
    cpu, npu, demo = maker("cpu", 10), maker("npu", 20), maker("demo", None)
    assert choose(monkeypatch, demo, cpu, npu) == "npu"
    assert choose(monkeypatch, demo, cpu, maker("npu", 20, "no NPU")) == "cpu"
    with pytest.raises(NoSuchBackend, match="cpu: no AVX2"):
        choose(monkeypatch, demo, maker("cpu", 10, "no AVX2"))


def test_backend_that_cannot_run_here_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(backends, "getPlugins", lambda interface: [maker("cpu", 10, "install the extra cpu")])
    with pytest.raises(NoSuchBackend, match="cpu cannot run here: install the extra cpu"):
        makeBackend("cpu")


def test_runtime_adapts_to_a_backend():
    adapted = IModelBackend(ScriptedRuntime())
    verifyObject(IModelBackend, adapted)
    assert IModelBackend(adapted) is adapted
    assert adapted._reactor is reactor

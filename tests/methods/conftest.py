"""Directories that are allowed and others, and that no descriptor is left of them."""

import os

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater

from rkllm_twisted.methods.roots import Roots
from tests.methods.descriptors import descriptors


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


@pytest.fixture
def flat():
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

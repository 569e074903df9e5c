"""What the tests of the stand-in share."""

import functools
import os
import shutil

import pytest

from tests.native.build import FAMILIES, compiler
from tests.native.driving import RECENT, Standin, started

CHOSEN = os.environ.get("STANDIN_FAMILIES", " ".join(FAMILIES)).split()
"""The families whose stand-ins are tested where that is slow."""


@pytest.fixture(autouse=True)
def _guard():
    """Instead of the one that looks after Twisted, which has no part in these tests and takes longer than they do."""
    yield
    while started:
        with started.pop() as process:  # closes its pipes and waits for it
            process.kill()


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """A function that gives the stand-in of a family, compiled once."""
    if shutil.which(compiler()[0]) is None:
        pytest.skip("the stand-in is written in C; no compiler here")
    return functools.cache(lambda family: Standin(family, tmp_path_factory.mktemp(f"standin-{family}")))


@pytest.fixture(params=[family for family in FAMILIES if family in CHOSEN])
def each(request, built):
    """The stand-in of each family."""
    return built(request.param)


@pytest.fixture(params=[family for family in RECENT if family in CHOSEN])
def recent(request, built):
    """The families that have all functions."""
    return built(request.param)


@pytest.fixture
def newest(built):
    return built("1.3.1")


@pytest.fixture
def gate(tmp_path):
    """A FIFO at which a run waits until the test opens it for writing, and closes it."""
    os.mkfifo(tmp_path / "gate")
    return tmp_path / "gate"

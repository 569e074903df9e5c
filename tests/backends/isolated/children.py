"""Models of the faulty backend in real children, and what a test asks of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from msgspec import structs
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from rkllm_twisted.backends.isolated.backend import IsolatedBackend
from rkllm_twisted.backends.isolated.limits import Limits
from rkllm_twisted.testing.receivers import RecordingReceiver
from rkllm_twisted.values import Delivery, RKLLMInferParam, RKLLMInput

PLUGIN = Path(__file__).parent / "plugin"
LIMITS = Limits(init=20, prefill=20, prefillToken=0, token=20, abort=20, crashes=1000)
"""Longer than anything here takes on a busy machine; a test of a hang sets the one that it is about."""
SHORT = 0.3
"""Seconds after which a test is content that something hangs."""


def backendOf(**limits):
    """A backend that spawns faulty children."""
    from faulty.runtime import FaultyRuntime

    return IsolatedBackend(FaultyRuntime(), "faulty", reactor, structs.replace(LIMITS, **limits))


class Children:
    """The models of a test.

    Args:
        flushErrors: Of the guard.
    """

    def __init__(self, flushErrors):
        self._flushErrors = flushErrors
        self._models = []
        self.logged = []

    async def load(self, path="model", backend=None, **limits):
        """A model. ``path`` may have orders in it."""
        backend = backend or backendOf(**limits)
        param = structs.replace(backend.createDefaultParam(), model_path=path)
        self._models.append(await backend.init(param))
        return self._models[-1]

    async def close(self):
        """Destroy all."""
        for model in self._models:
            await model.destroy()

    def forgive(self, count=None):
        """The errors that were logged are what was to be; there are ``count`` of them."""
        flushed = self._flushErrors(RuntimeError)
        if count is not None:
            assert len(flushed) == count, flushed
        return [str(failure.value) for failure in flushed]


def start(model, prompt, receiver=None, **delivery):
    """Start a run. Returns the receiver and the generation."""
    receiver = receiver or RecordingReceiver()
    return receiver, model.run(RKLLMInput(prompt_input=prompt), RKLLMInferParam(), receiver, Delivery(**delivery))


async def errorOf(model, prompt, **delivery):
    """Run; the error that it ends with, and what came before."""
    receiver, _ = start(model, prompt, **delivery)
    with pytest.raises(Exception) as raised:  # noqa: PT011  # the tests look at it
        await receiver.ended
    assert receiver.endings == 1
    return raised.value, receiver


async def say(model, prompt, **delivery):
    """Run; the texts of the results."""
    receiver, _ = start(model, prompt, **delivery)
    await receiver.ended
    return [result.text for result in receiver.results]


async def stateOf(model):
    """What the model in the child has been told, and the id of the child."""
    (state,) = await say(model, "!state")
    return json.loads(state)


class Undecoded(RecordingReceiver):
    """Keeps encoded results as they are."""

    def resultsReceived(self, results):
        """See `IResultReceiver`."""
        self._check(True, "")
        self.results += [result for result, _state in results]


def childGone(model):
    """Fires when the child that a model has now has ended, and its keeper knows."""
    done = Deferred()
    model._kept._child.gone.addCallback(lambda _: done.callback(None))
    return done


def isAlive(pid):
    """Whether there is such a process, and it is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def descriptors():
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))


def zombies():
    """The children of this process that nobody has waited for."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, *_ = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if state == "Z" and int(parent) == os.getpid():
            found.append(stat.parent.name)
    return found


def gone(pid):
    """Fires when there is no such process any more. The kernel tells by a descriptor of the process."""
    done = Deferred()
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        done.callback(None)
        return done
    reader = PidReader(descriptor, done)
    reactor.addReader(reader)
    return done


class PidReader:
    """Readable when a process has ended."""

    def __init__(self, descriptor, done):
        self._descriptor = descriptor
        self._done = done

    def fileno(self):
        """See `IReadDescriptor`."""
        return self._descriptor

    def doRead(self):
        """It has ended."""
        reactor.removeReader(self)
        os.close(self._descriptor)
        self._done.callback(None)

    def connectionLost(self, reason):
        """The reactor has stopped."""

    def logPrefix(self):
        """See `ILoggingContext`."""
        return "pid"

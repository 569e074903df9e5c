"""A blocking backend for the soak: it says the words of the prompt, so that each token shows whose answer it is."""

import time

from rkllm_twisted.backends.scripted import echo
from rkllm_twisted.testing.runtimes import ScriptedRuntime

INTERVAL = 0.0005
"""Seconds between two words, so that there is a middle of a run for what comes between."""


def say(input):
    """The words, slowly."""
    for word in echo(input):
        time.sleep(INTERVAL)
        yield word


def makeBackend(options):
    """See `rkllm_twisted.backends.BackendMaker`."""
    return ScriptedRuntime(say)

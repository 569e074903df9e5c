"""The contract over a backend in a child process: llama.cpp, with a tiny model."""

from twisted.internet import reactor

from rkllm_twisted.backends.isolated.backend import IsolatedBackend
from rkllm_twisted.backends.isolated.limits import Limits
from rkllm_twisted.backends.llamacpp import makeBackend
from tests.contract.test_llamacpp import OverLlamacpp, needsLlamacpp, tinyModel

__all__ = ["TestIsolated", "tinyModel"]


@needsLlamacpp
class TestIsolated(OverLlamacpp):
    STYLE = "cycle"

    def makeBackend(self):
        return IsolatedBackend(makeBackend({"threads": "1"}), "llamacpp:threads=1", reactor, Limits())

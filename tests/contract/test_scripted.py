"""The contract over the backend in memory."""

from msgspec import structs
from twisted.internet import reactor

from rkllm_twisted.backends.scripted import ScriptedBackend
from rkllm_twisted.testing.contract import BackendContract


class TestScripted(BackendContract):
    def makeBackend(self):
        return ScriptedBackend(reactor)

    def makeParam(self, backend):
        return structs.replace(backend.createDefaultParam(), model_path="any")

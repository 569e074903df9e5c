"""The contract over a blocking runtime in threads."""

from msgspec import structs

from rkllm_twisted.testing.contract import BackendContract
from rkllm_twisted.testing.runtimes import ScriptedRuntime


class TestThreaded(BackendContract):
    def makeBackend(self):
        return ScriptedRuntime()

    def makeParam(self, backend):
        return structs.replace(backend.createDefaultParam(), model_path="any")

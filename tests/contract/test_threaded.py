"""The contract over a blocking runtime in threads."""

from msgspec import structs

from rkllm_twisted.testing.contract import BackendContract
from rkllm_twisted.testing.runtimes import ScriptedRuntime


class TestThreaded(BackendContract):
    PROMPT = "1 2 3 4 5 6 7 8"

    def makeBackend(self):
        return ScriptedRuntime()

    def makeParam(self, backend):
        return structs.replace(backend.createDefaultParam(), model_path="any")

    def tokensOf(self, text):
        return [int(word) for word in text.split()]

"""The contract over blocking runtimes in threads."""

from msgspec import structs

from rkllm_twisted.errors import RuntimeCallFailed
from rkllm_twisted.testing.contract import BackendContract
from rkllm_twisted.testing.runtimes import ScriptedRuntime, ScriptedRuntimeModel
from rkllm_twisted.values import Capability, RKLLMCrossAttnParam


class TestThreaded(BackendContract):
    PROMPT = "1 2 3 4 5 6 7 8"

    def makeBackend(self):
        return ScriptedRuntime()

    def makeParam(self, backend):
        return structs.replace(backend.createDefaultParam(), model_path="any")

    def tokensOf(self, text):
        return [int(word) for word in text.split()]


class AttendingRuntime(ScriptedRuntime):
    """Its models need an encoder's output if they were loaded for that."""

    capabilities = ScriptedRuntime.capabilities | {Capability.CROSS_ATTENTION}

    def init(self, param):
        self.checkParam(param)
        return AttendingModel(self, param)


class AttendingModel(ScriptedRuntimeModel):
    def __init__(self, runtime, param):
        super().__init__(runtime, param)
        self._lacks = bool(param.extend_param.use_cross_attn)

    def setCrossAttnParams(self, params):
        self._lacks = len(params.encoder_k_cache) == 0

    def run(self, *run):
        if self._lacks:
            raise RuntimeCallFailed(function="rkllm_run", status=-1)
        return super().run(*run)


class TestAttending(TestThreaded):
    def makeBackend(self):
        return AttendingRuntime()

    def crossAttention(self):
        return RKLLMCrossAttnParam(
            encoder_k_cache=[0.5], encoder_v_cache=[0.5], encoder_mask=[1.0], encoder_pos=[0], num_tokens=1
        )

"""A blocking runtime that repeats the prompt in capitals."""

import dataclasses

from zope.interface import implementer

from rkllm_twisted.backends import RuntimeModel
from rkllm_twisted.interfaces import IRuntime
from rkllm_twisted.values import CallState, Capability, RKLLMParam, RKLLMResult


@implementer(IRuntime)
@dataclasses.dataclass
class ShoutingRuntime:
    mark: str

    name = "shouting"
    capabilities = frozenset({Capability.PROMPT_INPUT})

    def createDefaultParam(self):
        return RKLLMParam(max_context_len=512)

    def checkParam(self, param):
        pass

    def init(self, param):
        return ShoutingModel(self.mark)


class ShoutingModel(RuntimeModel):
    def __init__(self, mark):
        self._mark = mark

    def run(self, input, inferParam, onResult, delivery):
        onResult(RKLLMResult(text=input.prompt_input.upper() + self._mark, token_id=1), CallState.RKLLM_RUN_NORMAL)
        onResult(RKLLMResult(), CallState.RKLLM_RUN_FINISH)
        return "stop"

    def abort(self):
        pass

    def destroy(self):
        pass


def makeBackend(options):
    return ShoutingRuntime(options.get("mark", "!"))

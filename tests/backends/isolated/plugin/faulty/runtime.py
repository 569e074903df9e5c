"""A blocking runtime that breaks as it is told.

What tells it is a text: a prompt, the ``model_path`` or an argument of a function. Its words are said, one token each;
a word with a ``!`` in front is an order, such as ``one two !signal=SEGV``. See `orders`.
"""

import json
import os
import threading

from zope.interface import implementer

from faulty.orders import ORDERS
from rkllm_twisted.backends import RuntimeModel
from rkllm_twisted.interfaces import IRuntime
from rkllm_twisted.values import (
    NO_HIDDEN_STATES,
    CallState,
    Capability,
    RKLLMParam,
    RKLLMPerfStat,
    RKLLMResult,
    RKLLMResultLastHiddenLayer,
)


def makeBackend(options):
    """See `rkllm_twisted.backends.BackendMaker`."""
    return FaultyRuntime()


@implementer(IRuntime)
class FaultyRuntime:
    """See the module."""

    name = "faulty"
    capabilities = frozenset(Capability)

    def createDefaultParam(self):
        """See `IRuntime`."""
        return RKLLMParam(model_path="model", max_context_len=4096, max_new_tokens=-1)

    def checkParam(self, param):
        """See `IRuntime`."""

    def init(self, param):
        """See `IRuntime`. ``!abort:ORDER`` and ``!destroy:ORDER`` are carried out when that is called."""
        model = FaultyModel()
        model.obey(param.model_path)
        return model


class FaultyModel(RuntimeModel):
    """See the module."""

    def __init__(self):
        self.late = None
        self._armed = {"abort": [], "destroy": []}
        self._state = {}
        self._isAborted = threading.Event()
        self._isDeaf = False

    # Orders

    def obey(self, text, say=None):
        """Carry out a text. Returns whether it was left early, because of an abort."""
        for word in text.split():
            if self._isAborted.is_set() and not self._isDeaf:
                return True
            if not word.startswith("!"):
                if say is not None:
                    say(RKLLMResult(text=word, token_id=1), CallState.RKLLM_RUN_NORMAL)
            elif self._order(word[1:], say) is StopIteration:
                break
        return False

    def _order(self, order, say):
        when, colon, rest = order.partition(":")
        if colon and when in self._armed:
            self._armed[when].append(rest)
            return None
        name, _, value = order.partition("=")
        own = getattr(self, f"_order_{name}", None)
        return ORDERS[name](value) if own is None else own(value, say)

    def _order_deaf(self, value, say):
        """Aborts are not heard, wherever in the prompt this is."""

    def _order_hear(self, value, say):
        """Wait for an abort, without a word."""
        self._isAborted.wait()

    def _order_state(self, value, say):
        """Say what the model has been told, its process, and how much memory that takes."""
        say(RKLLMResult(text=json.dumps({"pid": os.getpid(), **self._state}), token_id=1), CallState.RKLLM_RUN_NORMAL)

    def _order_error(self, value, say):
        """Report the state ERROR."""
        say(RKLLMResult(), CallState.RKLLM_RUN_ERROR)

    def _order_tensor(self, value, say):
        """A result with rows of so many bytes."""
        say(RKLLMResult(token_id=1, last_hidden_layer=_rows(int(value))), CallState.RKLLM_RUN_NORMAL)

    def _order_say(self, value, say):
        """Something that is no text."""
        text = {"bytes": b"\xff", "number": 7, "surrogate": "\ud800"}[value]
        say(RKLLMResult(text=text, token_id=1), CallState.RKLLM_RUN_NORMAL)

    def _order_late(self, value, say):
        """Keep the callback, and call it when `getKVCacheSize` is called."""
        self.late = say

    def _order_many(self, value, say):
        """Say so many tokens."""
        for number in range(int(value)):
            if self._isAborted.is_set() and not self._isDeaf:
                return
            say(RKLLMResult(text="word", token_id=number), CallState.RKLLM_RUN_NORMAL)

    # The functions

    def prepare(self):
        """See `IRuntimeModel`."""
        self._isAborted.clear()

    def run(self, input, inferParam, onResult, delivery):
        """See `IRuntimeModel`. ``!nofinish`` leaves FINISH out, ``!return`` returns what is none of the reasons."""
        text = input.prompt_input or ""
        self._isDeaf = "!deaf" in text
        isAborted = self.obey(text, onResult)
        if "!nofinish" not in text:
            onResult(RKLLMResult(perf=RKLLMPerfStat(prefill_tokens=1)), CallState.RKLLM_RUN_FINISH)
        if "!return" in text:
            return 0
        return "abort" if isAborted else "stop"

    def runBatch(self, inputs, inferParam, onResult, delivery):
        """See `IRuntimeModel`."""
        for index, input in enumerate(inputs):
            result = RKLLMResult(text=input.prompt_input, token_id=1, batch_index=index)
            onResult(result, CallState.RKLLM_RUN_NORMAL)
        onResult(RKLLMResult(), CallState.RKLLM_RUN_FINISH)
        return "stop"

    def abort(self):
        """See `IRuntimeModel`."""
        for order in self._armed["abort"]:
            self._order(order, None)
        self._isAborted.set()

    def destroy(self):
        """See `IRuntimeModel`."""
        for order in self._armed["destroy"]:
            self._order(order, None)

    def loadLora(self, adapter):
        """See `IRuntimeModel`."""
        self.obey(adapter.lora_adapter_path)
        self._state.setdefault("adapters", []).append(adapter.lora_adapter_name)

    def loadPromptCache(self, path):
        """See `IRuntimeModel`."""
        self.obey(path)
        self._state["cache"] = path

    def releasePromptCache(self):
        """See `IRuntimeModel`."""
        self._state.pop("cache", None)

    def clearKVCache(self, keepSystemPrompt, ranges):
        """See `IRuntimeModel`."""
        self._state["cleared"] = ranges

    def getKVCacheSize(self):
        """See `IRuntimeModel`."""
        if self.late is not None:
            self.late(RKLLMResult(text="too late", token_id=1), CallState.RKLLM_RUN_NORMAL)
            self.late(RKLLMResult(), CallState.RKLLM_RUN_FINISH)
        return [7]

    def setChatTemplate(self, systemPrompt, promptPrefix, promptPostfix):
        """See `IRuntimeModel`."""
        self.obey(systemPrompt)
        self._state["template"] = [systemPrompt, promptPrefix, promptPostfix]

    def setFunctionTools(self, systemPrompt, tools, toolResponse):
        """See `IRuntimeModel`."""
        self.obey(systemPrompt)
        self._state["tools"] = tools

    def setCrossAttnParams(self, params):
        """See `IRuntimeModel`."""
        self._state["encoder"] = [params.num_tokens, params.encoder_k_cache]


def _rows(size):
    if not size:
        return NO_HIDDEN_STATES
    return RKLLMResultLastHiddenLayer(bytes(size), 4, size // 16)

"""The methods ``rkllm.*``: the functions of the runtime, for the one model that is loaded (W-MODEL)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

from msgspec import structs
from twisted.internet.defer import Deferred, succeed

from rkllm_twisted.errors import InvalidParams, ModelNotInitialized, NotSupported
from rkllm_twisted.interfaces import IGeneration, IModel, IModelBackend, IResultReceiver, refuseUnsupported
from rkllm_twisted.methods.decoding import completed
from rkllm_twisted.methods.history import History
from rkllm_twisted.methods.parameters import (
    ChatTemplateParams,
    ClearParams,
    CrossAttentionParams,
    FunctionToolsParams,
    InitParams,
    LoraParams,
    PromptCacheParams,
    RunParams,
)
from rkllm_twisted.methods.runs import Errand, Run
from rkllm_twisted.methods.table import Answer, Method, NoParams
from rkllm_twisted.scheduling.scheduler import Scheduler
from rkllm_twisted.values import (
    CallState,
    CPUMask,
    Delivery,
    InferMode,
    InputType,
    RKLLMInferParam,
    RKLLMInput,
    RKLLMParam,
    samplingOf,
)
from rkllm_twisted.wire.connection import Call
from rkllm_twisted.wire.messages import encode
from rkllm_twisted.wire.streams import MAX_REPLY, LineStream, openStream


class RuntimeMethods:
    """Carries out ``rkllm.*``.

    Args:
        backend: Loads models.
        scheduler: Gives turns with the model.
        maxReply: The longest result with tensors in it, in bytes.

    Attributes:
        counters: What has been done since the start, by name.
    """

    def __init__(self, backend: IModelBackend, scheduler: Scheduler, maxReply: int = MAX_REPLY) -> None:
        self.counters = Counter[str]()
        self._backend = backend
        self._scheduler = scheduler
        self._maxReply = maxReply
        self._model: IModel | None = None
        self._param = RKLLMParam()
        self._runs: dict[Run, None] = {}
        self._history = History()
        self._chosen: set[str] = set()

    def methods(self) -> list[Method]:
        """The rows of the table."""
        return [
            Method("rkllm.createDefaultParam", NoParams, self.createDefaultParam),
            Method("rkllm.get_constants", NoParams, self.getConstants),
            Method("rkllm.init", InitParams, self.init),
            Method("rkllm.run", RunParams, self.run, streams=True),
            Method("rkllm.run_async", RunParams, self.runAsync, streams=True),
            Method("rkllm.abort", NoParams, self.abort),
            Method("rkllm.is_running", NoParams, self.isRunning),
            Method("rkllm.destroy", NoParams, self.destroy),
            Method("rkllm.load_lora", LoraParams, self.loadLora),
            Method("rkllm.load_prompt_cache", PromptCacheParams, self.loadPromptCache),
            Method("rkllm.release_prompt_cache", NoParams, self.releasePromptCache),
            Method("rkllm.clear_kv_cache", ClearParams, self.clearKVCache),
            Method("rkllm.get_kv_cache_size", NoParams, self.getKVCacheSize),
            Method("rkllm.set_chat_template", ChatTemplateParams, self.setChatTemplate),
            Method("rkllm.set_function_tools", FunctionToolsParams, self.setFunctionTools),
            Method("rkllm.set_cross_attn_params", CrossAttentionParams, self.setCrossAttnParams),
        ]

    def createDefaultParam(self, call: Call, params: NoParams) -> Answer:
        """The parameters that ``rkllm.init`` takes where it is given none."""
        return self._backend.createDefaultParam()

    def getConstants(self, call: Call, params: NoParams) -> Answer:
        """The names and numbers of the runtime's enums and CPU masks."""
        return {
            "CPU_MASKS": {mask.name: mask.value for mask in CPUMask},
            "LLM_CALL_STATES": {state.name: state.value for state in CallState},
            "INPUT_TYPES": {type.name: type.value for type in InputType},
            "INFER_MODES": {mode.name: mode.value for mode in InferMode},
        }

    def init(self, call: Call, params: InitParams) -> Deferred[Answer]:
        """Load a model, in the place of the one that is loaded."""
        if params.callback is not None:
            raise NotSupported("$.callback: expected null", needs="C callbacks, which cannot cross a socket")
        self._scheduler.checkRoom()
        param = completed(params.param, self._backend.createDefaultParam())
        checked = self._backend.checkParam(param)
        # It has its place in the line from now on, or a run in the same packet would come before it.
        errand = Errand(
            self._scheduler, call.connection, call, lambda: checked.addCallback(lambda _: self._load(param))
        )
        call.cancelled = errand.withdraw
        checked.addErrback(errand.giveUp)
        return errand.done

    def preload(self, model: str) -> Deferred[Answer]:
        """Load a model before any client asks for one.

        Args:
            model: The ``model_path``.

        Returns:
            Fires when it is loaded, or fails as ``rkllm.init`` would.
        """
        param = structs.replace(self._backend.createDefaultParam(), model_path=model)
        return Errand(self._scheduler, self, self, lambda: self._load(param)).done

    def _inTurn(self, call: Call, work: Callable[[], Deferred[Answer]]) -> Deferred[Answer]:
        errand = Errand(self._scheduler, call.connection, call, work)
        call.cancelled = errand.withdraw
        return errand.done

    def _load(self, param: RKLLMParam) -> Deferred[Answer]:
        return self._unload().addCallback(lambda _: self._backend.init(param)).addCallback(self._loaded, param)

    def _loaded(self, model: IModel, param: RKLLMParam) -> Answer:
        self._model, self._param = model, param
        self.counters["models loaded"] += 1
        return _success(f"model loaded by the {self._backend.name} backend")

    def _unload(self) -> Deferred[None]:
        model, self._model = self._model, None
        self._history.forget()
        self._chosen.clear()
        return succeed(None) if model is None else model.destroy()

    def run(self, call: Call, params: RunParams) -> None:
        """Generate; the answer is a stream whose first line is data."""
        self._scheduler.checkRoom()
        self._enter(call, params, openStream(call, _delivery(params), self._maxReply))

    def runAsync(self, call: Call, params: RunParams) -> None:
        """Generate; the answer is an acknowledgement as soon as the run has its place in the line, then the stream."""
        stream = openStream(call, _delivery(params), self._maxReply)
        self._scheduler.checkRoom()
        stream.acknowledge("run accepted")
        self._enter(call, params, stream)

    def _enter(self, call: Call, params: RunParams, stream: LineStream) -> None:
        delivery = _delivery(params)
        inputs = _wholeInputs(params)

        def start(receiver: IResultReceiver) -> Deferred[IGeneration]:
            inferParam = self._wholeInferParam(params.rkllm_infer_params)
            model = self._loadedModel()
            self._checkBatch(call, delivery, inputs)
            # First of all, or the history of another connection would be cleared for a run that cannot be.
            refuseUnsupported(inputs, inferParam, model.capabilities)
            ready = self._history.enter(model, call.connection, bool(inferParam.keep_history))
            run.finishedWith = self._history.lossOf(call.connection, bool(inferParam.keep_history))
            if len(inputs) > 1:
                return ready.addCallback(lambda _: model.runBatch(inputs, inferParam, receiver, delivery))
            return ready.addCallback(lambda _: model.run(inputs[0], inferParam, receiver, delivery))

        run = Run(call, stream, start, self._ended)
        self._runs[run] = None
        call.cancelled = run.abort
        run.enter(self._scheduler, delivery.deadline)

    def _checkBatch(self, call: Call, delivery: Delivery, inputs: list[RKLLMInput]) -> None:
        """A run has as many inputs as its model was loaded for (W-NBATCH)."""
        expected = self._param.extend_param.n_batch
        if len(inputs) != expected:
            raise InvalidParams(f"$.rkllm_input: expected {expected} inputs, as n_batch of init, got {len(inputs)}")
        if expected > 1 and (delivery.stream != "lines" or call.batch is not None):
            raise NotSupported("texts of several inputs cannot be joined to one", needs='stream "lines"')

    def _ended(self, run: Run) -> None:
        del self._runs[run]
        self.counters["generations"] += 1
        self.counters["tokens"] += run.tokens

    def _wholeInferParam(self, given: RKLLMInferParam | None) -> RKLLMInferParam:
        """What was given, over the values that the model was loaded with."""
        if given is None:
            return RKLLMInferParam()
        if given.sampling_params is None:
            return completed(given)
        return completed(given, RKLLMInferParam(sampling_params=samplingOf(self._param)))

    def _loadedModel(self) -> IModel:
        if self._model is None:
            raise ModelNotInitialized("load a model with rkllm.init first")
        return self._model

    def abort(self, call: Call, params: NoParams) -> Answer:
        """End the caller's own generations; if it has none, the running one of a peer with the same uid (W-ABORT)."""
        mine = [run for run in self._runs if run.owner is call.connection]
        others = [run for run in self._runs if run.isRunning and run.owner.isSameUser(call.connection)]
        chosen = mine or others
        for run in chosen:
            run.abort()
        message = f"{len(chosen)} generation(s) aborted" if chosen else "no generation to abort"
        return _success(message, status_code=0)

    def isRunning(self, call: Call, params: NoParams) -> Answer:
        """Whether a generation runs."""
        return {"is_running": self._model is not None and self._model.isRunning(), "status_code": 0}

    def destroy(self, call: Call, params: NoParams) -> Deferred[Answer]:
        """Free the model."""
        return self._inTurn(call, self._destroyed)

    def _destroyed(self) -> Deferred[Answer]:
        self._loadedModel()
        return self._unload().addCallback(lambda _: _success("model destroyed"))

    def loadLora(self, call: Call, params: LoraParams) -> Deferred[Answer]:
        """Load a LoRA adapter; runs choose it by its name."""
        adapter = completed(params.lora_adapter)
        done = self._withModel(call, lambda model: model.loadLora(adapter))
        return done.addCallback(lambda _: _success(f"adapter {adapter.lora_adapter_name} loaded"))

    def loadPromptCache(self, call: Call, params: PromptCacheParams) -> Deferred[Answer]:
        """Load a prompt cache file."""
        path = params.prompt_cache_path
        done = self._withModel(call, lambda model: model.loadPromptCache(path))
        return done.addCallback(lambda _: _success("prompt cache loaded", cache_path=path))

    def releasePromptCache(self, call: Call, params: NoParams) -> Deferred[Answer]:
        """Let go of the loaded prompt cache."""
        done = self._withModel(call, lambda model: model.releasePromptCache())
        return done.addCallback(lambda _: _success("prompt cache released"))

    def clearKVCache(self, call: Call, params: ClearParams) -> Deferred[Answer]:
        """Clear the KV cache, whole or in ranges."""
        keep = bool(params.keep_system_prompt)
        ranges = _ranges(params)
        done = self._withModel(call, lambda model: model.clearKVCache(keep, ranges))
        return done.addCallback(lambda _: _success("KV cache cleared", keep_system_prompt=keep))

    def getKVCacheSize(self, call: Call, params: NoParams) -> Deferred[Answer]:
        """How many tokens the KV cache holds, one number for each batch."""
        done = self._withModel(call, lambda model: model.getKVCacheSize())
        return done.addCallback(lambda sizes: _success("KV cache sizes in tokens", cache_sizes=sizes))

    def setChatTemplate(self, call: Call, params: ChatTemplateParams) -> Deferred[Answer]:
        """Replace the model's chat template."""
        parts = structs.asdict(params)
        done = self._withModel(call, lambda model: model.setChatTemplate(*parts.values()))
        return done.addCallback(lambda _: self._choose("chat template", parts))

    def setFunctionTools(self, call: Call, params: FunctionToolsParams) -> Deferred[Answer]:
        """Offer functions to the model."""
        tools = params.tools if isinstance(params.tools, str) else encode(params.tools).decode()
        done = self._withModel(
            call, lambda model: model.setFunctionTools(params.system_prompt, tools, params.tool_response_str)
        )
        return done.addCallback(lambda _: self._choose("function tools", structs.asdict(params)))

    def _choose(self, what: str, values: dict[str, object]) -> Answer:
        """A template or tools have been set; with both, the runtime leaves one out (W-TOOLS)."""
        self._chosen.add(what)
        both = ", but with a chat template of one's own the runtime does not inject the tools"
        return _success(f"{what} set{both if len(self._chosen) > 1 else ''}", **values)

    def setCrossAttnParams(self, call: Call, params: CrossAttentionParams) -> Deferred[Answer]:
        """Set the encoder's output for cross attention."""
        cross = completed(params.cross_attn_params)
        done = self._withModel(call, lambda model: model.setCrossAttnParams(cross))
        return done.addCallback(lambda _: _success("cross attention set", num_tokens=cross.num_tokens))

    def _withModel(self, call: Call, work: Callable[[IModel], Deferred[Any]]) -> Deferred[Any]:
        """Do something with the loaded model in a turn of its own."""
        return self._inTurn(call, lambda: work(self._loadedModel()))

    @property
    def state(self) -> str:
        """What the backend is doing: "generating", "busy" with something else, "ready", or "no model"."""
        if any(run.isRunning for run in self._runs):
            return "generating"
        if self._scheduler.running is not None:
            return "busy"
        return "no model" if self._model is None else "ready"

    @property
    def backendName(self) -> str:
        """Of the backend."""
        return self._backend.name

    @property
    def modelName(self) -> str | None:
        """The last part of the path that the model was loaded from; None without a model."""
        return None if self._model is None else os.path.basename(self._param.model_path)

    def shutDown(self) -> Deferred[None]:
        """Refuse what waits, abort what runs, free the model. Fires when it is freed."""
        self._scheduler.close()
        for run in list(self._runs):
            run.abort()
        return self._unload()


def _delivery(params: RunParams) -> Delivery:
    return Delivery() if params.userdata is None else completed(params.userdata)


def _success(message: str, **more: object) -> dict[str, object]:
    return {"success": True, "message": message, **more}


def _ranges(params: ClearParams) -> list[tuple[int, int]] | None:
    starts, ends = params.start_pos, params.end_pos
    if starts is None and ends is None:
        return None
    if starts is None or ends is None or len(starts) != len(ends):
        raise InvalidParams("$.start_pos: expected as many starts as there are numbers in end_pos")
    ranges = list(zip(starts, ends, strict=True))
    for index, (start, end) in enumerate(ranges):
        if start >= end:
            raise InvalidParams(f"$.end_pos[{index}]: expected more than start_pos[{index}], {start}, got {end}")
    return ranges


def _wholeInputs(params: RunParams) -> list[RKLLMInput]:
    given = params.rkllm_input
    if not isinstance(given, list):
        return [_wholeInput(given, "$.rkllm_input")]
    if not given:
        raise InvalidParams("$.rkllm_input: expected at least one input, got []")
    return [_wholeInput(one, f"$.rkllm_input[{index}]") for index, one in enumerate(given)]


def _wholeInput(given: RKLLMInput, place: str) -> RKLLMInput:
    input = completed(given)
    member = input.MEMBERS[input.input_type]
    if getattr(input, member) is None:
        raise InvalidParams(f"{place}.{member}: missing, input_type {input.input_type.value} needs it")
    return input

"""The methods ``rkllm.*``: the functions of the runtime, for the one model that is loaded (W-MODEL)."""

from __future__ import annotations

from collections import Counter

from msgspec import structs
from twisted.internet.defer import Deferred, maybeDeferred

from rkllm_twisted.errors import InvalidParams, ModelLoadFailed, NotSupported, RuntimeCallFailed, ShuttingDown
from rkllm_twisted.interfaces import IGeneration, IModelBackend
from rkllm_twisted.methods.checks import checkInferParam, checkParam
from rkllm_twisted.methods.decoding import completed
from rkllm_twisted.methods.errands import Errand
from rkllm_twisted.methods.functions import FunctionMethods
from rkllm_twisted.methods.held import HeldModel, success
from rkllm_twisted.methods.parameters import InitParams, RunParams
from rkllm_twisted.methods.roots import OpenedFile, Roots, inWords
from rkllm_twisted.methods.runs import OpenRuns, Run
from rkllm_twisted.methods.table import Answer, Method, NoParams
from rkllm_twisted.scheduling.scheduler import Scheduler
from rkllm_twisted.values import (
    MAX_REPLY,
    CallState,
    CPUMask,
    Delivery,
    DeliveryOptions,
    InferMode,
    InputType,
    RKLLMInferParam,
    RKLLMInput,
    refuseUnsupported,
    samplingOf,
)
from rkllm_twisted.values.arrays import checkInput
from rkllm_twisted.wire.connection import Call, Connection
from rkllm_twisted.wire.streams import LineStream, openStream


class RuntimeMethods:
    """Carries out ``rkllm.*``.

    Args:
        backend: Loads models.
        scheduler: Gives turns with the model.
        maxReply: The longest result with tensors in it, in bytes.
        roots: The directories below which clients may name files; None allows all.

    Attributes:
        counters: What has been done since the start, by name.
        held: The model that is loaded.
    """

    def __init__(
        self, backend: IModelBackend, scheduler: Scheduler, maxReply: int = MAX_REPLY, roots: Roots | None = None
    ) -> None:
        self.counters = Counter[str]()
        self.held = HeldModel(backend, scheduler, roots or Roots())
        self._backend = backend
        self._scheduler = scheduler
        self._maxReply = maxReply
        self._runs = OpenRuns(scheduler.clock)

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
            *FunctionMethods(self.held).methods(),
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
            raise NotSupported("callback is not null", needs="C callbacks, which cannot cross a socket")
        self._scheduler.checkRoom()
        param = completed(params.param, self._backend.createDefaultParam())
        checkParam(param, given=params.param)
        file = self._modelFile(param.model_path)
        checked = maybeDeferred(self._backend.checkParam, structs.replace(param, model_path=file.path))
        # It has its place in the line from now on, or a run in the same packet would come before it.
        errand = self.held.errand(
            call, lambda: checked.addCallback(lambda _: self.held.load(param, file, call.connection))
        )
        checked.addErrback(errand.giveUp)
        return errand.done.addErrback(file.failed)

    def _modelFile(self, path: str) -> OpenedFile:
        try:
            return self.held.roots.file(path, "$.param.model_path")
        except OSError as error:
            raise ModelLoadFailed(f"{path}: {inWords(error)}") from None

    def preload(self, model: str) -> Deferred[Answer]:
        """Load a model before any client asks for one.

        Args:
            model: The ``model_path``.

        Returns:
            Fires when it is loaded, or fails as ``rkllm.init`` would.
        """
        param = structs.replace(self._backend.createDefaultParam(), model_path=model)
        # An owner of its own among those that take turns; and no call, so nobody can cancel it.
        return Errand(self._scheduler, self, self, lambda: self.held.load(param, OpenedFile(model))).done

    def run(self, call: Call, params: RunParams) -> None:
        """Generate; the answer is a stream whose first line is data."""
        delivery, inputs = self._delivery(params), _wholeInputs(params)
        self._scheduler.checkRoom()
        self._enter(call, params, inputs, delivery, openStream(call, delivery))

    def runAsync(self, call: Call, params: RunParams) -> None:
        """Generate; the answer is an acknowledgement as soon as the run has its place in the line, then the stream."""
        delivery, inputs = self._delivery(params), _wholeInputs(params)
        stream = openStream(call, delivery)
        self._scheduler.checkRoom()
        stream.acknowledge("run accepted")
        self._enter(call, params, inputs, delivery, stream)

    def _enter(
        self, call: Call, params: RunParams, inputs: list[RKLLMInput], delivery: Delivery, stream: LineStream
    ) -> None:
        run = Run(call, stream, lambda run: self._start(run, params, inputs, delivery), self._ended)
        self._runs.add(run)
        call.cancelled = run.abort
        run.enter(self._scheduler, None if params.userdata is None else params.userdata.deadline)

    def _start(
        self, run: Run, params: RunParams, inputs: list[RKLLMInput], delivery: Delivery
    ) -> Deferred[IGeneration]:
        """Start the generation of a run whose turn has come: only now is it known which model it has."""
        inferParam = self._withPlace(self._wholeInferParam(params.rkllm_infer_params), run)
        model, history = self.held.model(), self.held.history
        self._checkBatch(run.call, delivery, inputs)
        # Before anything is done, or the history of another connection would be cleared for a run that cannot be.
        refuseUnsupported(inputs, inferParam, model.capabilities)
        keeps = bool(inferParam.keep_history)
        ready = history.enter(model, run.owner, keeps)
        run.finishedWith = history.lossOf(run.owner, keeps)
        if keeps:
            run.lostWith = lambda: history.died(run.owner)
        if len(inputs) > 1:
            return ready.addCallback(lambda _: model.runBatch(inputs, inferParam, run, delivery))
        return ready.addCallback(lambda _: model.run(inputs[0], inferParam, run, delivery))

    def _withPlace(self, inferParam: RKLLMInferParam, run: Run) -> RKLLMInferParam:
        """What a run saves goes below a directory that is allowed."""
        cache = inferParam.prompt_cache_params
        if cache is None or not cache.save_prompt_cache:
            return inferParam
        where = "$.rkllm_infer_params.prompt_cache_params.prompt_cache_path"
        try:
            run.saves = self.held.roots.place(cache.prompt_cache_path, where)
        except OSError as error:
            reason = f"the prompt cache cannot be saved: {inWords(error)}"
            raise RuntimeCallFailed(reason, function="rkllm_run", status=-1) from None
        inside = structs.replace(cache, prompt_cache_path=run.saves.path)
        return structs.replace(inferParam, prompt_cache_params=inside)

    def _delivery(self, params: RunParams) -> Delivery:
        options = DeliveryOptions() if params.userdata is None else completed(params.userdata)
        return Delivery(options.stream, options.tensors, options.rows, self._maxReply)

    def _checkBatch(self, call: Call, delivery: Delivery, inputs: list[RKLLMInput]) -> None:
        """A run has as many inputs as its model was loaded for (W-NBATCH)."""
        expected = self.held.param.extend_param.n_batch
        if len(inputs) != expected:
            raise InvalidParams(f"$.rkllm_input: expected {expected} inputs, as n_batch of init, got {len(inputs)}")
        if expected > 1 and (delivery.stream != "lines" or call.batch is not None):
            raise NotSupported("texts of several inputs cannot be joined to one", needs='stream "lines"')

    def _ended(self, run: Run) -> None:
        if run.hasFinished and run.finishedWith:
            self.held.history.told(run.owner)
        if run.saves is not None:
            run.saves.close()
        self.counters["generations"] += run.hasRun
        self.counters["tokens"] += run.tokens
        self._runs.remove(run)

    def _wholeInferParam(self, given: RKLLMInferParam | None) -> RKLLMInferParam:
        """What was given, over the values that the model was loaded with."""
        if given is None:
            return RKLLMInferParam()
        if given.sampling_params is None:
            return completed(given)
        return completed(given, RKLLMInferParam(sampling_params=samplingOf(self.held.param)))

    def abort(self, call: Call, params: NoParams) -> Answer:
        """End the caller's own generations; if it has none, the running one of a peer with the same uid (W-ABORT)."""
        mine = [run for run in self._runs if run.owner is call.connection]
        others = [run for run in self._runs if run.isRunning and run.owner.isSameUser(call.connection)]
        chosen = mine or others
        for run in chosen:
            run.abort()
        message = f"{len(chosen)} generation(s) aborted" if chosen else "no generation to abort"
        return success(message, status_code=0)

    def isRunning(self, call: Call, params: NoParams) -> Answer:
        """Whether a generation runs."""
        return {"is_running": self.held.isRunning, "status_code": 0}

    def destroy(self, call: Call, params: NoParams) -> Deferred[Answer]:
        """Free the model."""
        return self.held.inTurn(call, lambda: self._destroyed(call.connection))

    def _destroyed(self, by: Connection) -> Deferred[Answer]:
        self.held.model()
        return self.held.unload(by).addCallback(lambda _: success("model destroyed"))

    @property
    def state(self) -> str:
        """What the backend is doing: "generating", "busy" with something else, "ready", or "no model"."""
        if any(run.isRunning for run in self._runs):
            return "generating"
        if self._scheduler.running is not None:
            return "busy"
        return "ready" if self.held.isLoaded else "no model"

    @property
    def backendName(self) -> str:
        """Of the backend."""
        return self._backend.name

    def shutDown(self, drain: float = 0.0) -> Deferred[None]:
        """Refuse what waits, abort what runs, free the model.

        Args:
            drain: Seconds that a generation in progress may go on before it is aborted.

        Returns:
            Fires when the model is freed.
        """
        self._scheduler.close()
        self._dismissErrand()
        return self._runs.drain(drain).addCallback(self._free)

    def _free(self, _: None) -> Deferred[None]:
        # What runs still is aborted and not waited for: a prefill may be deaf to it. `destroy` has its own limit.
        for run in self._runs:
            run.abort()
        return self.held.close()

    def _dismissErrand(self) -> None:
        """Give the last line to a call that has the model for something else than a run: a load may take long."""
        turn = self._scheduler.running
        call = None if turn is None else turn.subject
        if isinstance(call, Call) and all(run.call is not call for run in self._runs):
            call.fail(ShuttingDown())


def _wholeInputs(params: RunParams) -> list[RKLLMInput]:
    checkInferParam(params.rkllm_infer_params)
    given = params.rkllm_input
    if not isinstance(given, list):
        return [_wholeInput(given, "$.rkllm_input")]
    if not given:
        raise InvalidParams("$.rkllm_input: expected at least one input, got []")
    return [_wholeInput(one, f"$.rkllm_input[{index}]") for index, one in enumerate(given)]


def _wholeInput(given: RKLLMInput, place: str) -> RKLLMInput:
    input = completed(given)
    checkInput(input, place)
    return input

"""The runs of a loaded model: what the library is called with, and what its answer means."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from msgspec import structs
from zope.interface import implementer

from rkllm_twisted.backends.rkllm import checking
from rkllm_twisted.backends.rkllm.functions import MIXED, Conditions, ModelFunctions
from rkllm_twisted.backends.rkllm.inputs import checkedInput, knownTokens
from rkllm_twisted.backends.rkllm.interrupting import Interruption
from rkllm_twisted.backends.rkllm.loaded import Loaded
from rkllm_twisted.backends.rkllm.running import ABORT, Run, Task
from rkllm_twisted.backends.rkllm.sampling import greedy
from rkllm_twisted.backends.rkllm.saving import PromptCacheFile
from rkllm_twisted.backends.rkllm.writing import Writer
from rkllm_twisted.errors import InvalidParams, PromptTooLong, RuntimeCallFailed
from rkllm_twisted.interfaces import IRuntimeModel, OnResult
from rkllm_twisted.values import (
    Capability,
    Delivery,
    InferMode,
    RKLLMInferParam,
    RKLLMInput,
    RKLLMParam,
    refuseUnsupported,
)


@implementer(IRuntimeModel)
class RkllmModel(ModelFunctions):
    """A loaded model. One thread calls it, `abort`, `prepare` and `isRunning` excepted.

    Args:
        loaded: Its handle; destroyed by `destroy`.
        param: What it was loaded with, every choice made.
    """

    def __init__(self, loaded: Loaded, param: RKLLMParam) -> None:
        super().__init__(loaded, param)
        self._run: Run | None = None
        self._isAborted = False

    def run(self, input: RKLLMInput, inferParam: RKLLMInferParam, onResult: OnResult, delivery: Delivery) -> str | None:
        """See `IRuntimeModel.run`.

        Raises:
            InvalidParams: A value is wrong; nothing was started.
            NotSupported: The run needs what this release lacks; nothing was started.
        """
        return self._runAll([input], inferParam, onResult, delivery)

    def runBatch(
        self,
        inputs: list[RKLLMInput],
        inferParam: RKLLMInferParam,
        onResult: OnResult,
        delivery: Delivery,
    ) -> str | None:
        """See `IRuntimeModel.runBatch`. An input whose answer is complete gives results with ``token_id`` -1."""
        self._need(Capability.BATCHES)
        return self._runAll(inputs, inferParam, onResult, delivery)

    def _runAll(
        self, inputs: list[RKLLMInput], inferParam: RKLLMInferParam, onResult: OnResult, delivery: Delivery
    ) -> str | None:
        refuseUnsupported(inputs, inferParam, self._family.capabilities)
        inputs = self._checked(inputs, inferParam)
        task = self._taskOf(inputs, inferParam, delivery)
        run = Run(self._family, task, onResult, Interruption(self._loaded.abort))
        self._run = run  # before the flag is read: `abort` sets the flag before it reads this
        try:
            if self._isAborted:
                run.reason = ABORT
            else:
                self._carryOutAndSave(run, task, inputs, inferParam)
        finally:
            self._run = None
        return run.finish()

    def _carryOutAndSave(self, run: Run, task: Task, inputs: list[RKLLMInput], inferParam: RKLLMInferParam) -> None:
        """Call the library; a prompt cache that it is to save is put in its place unless the run was aborted."""
        cache = inferParam.prompt_cache_params
        if cache is None or not cache.save_prompt_cache:
            self._carryOut(run, task, inputs, inferParam)
            return
        file = PromptCacheFile(cache.prompt_cache_path)
        try:
            elsewhere = structs.replace(cache, prompt_cache_path=file.path)
            self._carryOut(run, task, inputs, structs.replace(inferParam, prompt_cache_params=elsewhere))
            if run.reason != ABORT:
                file.putInPlace()
        finally:
            file.close()

    def _checked(self, inputs: list[RKLLMInput], inferParam: RKLLMInferParam) -> list[RKLLMInput]:
        if len(inputs) != self._batch:
            raise InvalidParams(f"$.rkllm_input: expected {self._batch} inputs, as n_batch of init, got {len(inputs)}")
        checking.checkInferParam(self._family, inferParam, self._batch, self._adapters)
        places = [f"[{index}]" for index in range(self._batch)] if self._batch > 1 else [""]
        checked = [
            checkedInput(self._family, input, f"$.rkllm_input{place}")
            for input, place in zip(inputs, places, strict=True)
        ]
        longest = max(map(knownTokens, checked))
        if longest >= self._param.max_context_len:
            raise PromptTooLong(tokens=longest, limit=self._param.max_context_len)
        return checked

    def _taskOf(self, inputs: list[RKLLMInput], inferParam: RKLLMInferParam, delivery: Delivery) -> Task:
        known = list(map(knownTokens, inputs))
        limit = inferParam.max_new_tokens if inferParam.max_new_tokens > 0 else self._param.max_new_tokens
        if not self._family.takesSampling:
            limit = min(limit, self._param.max_new_tokens)  # the library ends there, whatever a run asks for
        limit = min(limit, self._param.max_context_len - max(known))
        if inferParam.mode is InferMode.RKLLM_INFER_GET_LAST_HIDDEN_LAYER:
            limit = 1
        isLimited = self._family.takesSampling or limit == self._param.max_new_tokens
        return Task(inferParam.mode, limit, isLimited, len(inputs), sum(known), delivery)

    def _carryOut(self, run: Run, task: Task, inputs: list[RKLLMInput], inferParam: RKLLMInferParam) -> None:
        """Call the library.

        Raises:
            RuntimeCallFailed: It failed.
            ResultTooLarge: The tensors would be.
        """
        mayClear = not inferParam.keep_history and Capability.CLEAR_KV_CACHE in self._family.capabilities
        wantsRows = inferParam.mode is not InferMode.RKLLM_INFER_GENERATE
        conditions = self._conditionsOf(inferParam)
        if mayClear and (wantsRows or self._cachedUnder not in (None, conditions)):
            self.clearKVCache(False, None)
        self._cachedUnder = conditions if self._cachedUnder in (None, conditions) else MIXED
        writer = Writer(self._ffi)
        arguments = writer.inputs(inputs), writer.new("RKLLMInferParam", self._inferParamOf(inferParam, task))
        # Whether tokens that are found in a cache have rows is not known.
        with self._withoutPromptCache() if wantsRows else nullcontext():
            status = self._call(run, *arguments)
        if mayClear and run.wasInterrupted:
            self._clearAfterAbort()
        if run.defect is not None:
            raise run.defect
        if run.reason is None:
            self._checkEnd(run, status, inputs)

    def _conditionsOf(self, inferParam: RKLLMInferParam) -> Conditions:
        """What the KV cache will have been computed under: the LoRA adapter, and which encoder's output.

        Whether the library takes care of that when it finds the beginning of a prompt in its cache is not known.
        """
        lora = inferParam.lora_params
        return None if lora is None else lora.lora_adapter_name, self._encodings

    def _call(self, run: Run, inputs: Any, inferParam: Any) -> int:
        with self._loaded.library.receiving(run.received) as userdata:
            try:
                # Once more: to write the inputs may have taken a while.
                return 0 if run.wasInterrupted else self._loaded.status("rkllm_run", inputs, inferParam, userdata)
            finally:
                run.close()

    def _inferParamOf(self, inferParam: RKLLMInferParam, task: Task) -> RKLLMInferParam:
        """As the library gets it; fields that the family lacks are left out where it is written."""
        sampling = inferParam.sampling_params
        return structs.replace(
            inferParam,
            sampling_params=None if sampling is None else greedy(sampling),
            max_new_tokens=task.limit,
        )

    def _checkEnd(self, run: Run, status: int, inputs: list[RKLLMInput]) -> None:
        """A run went well if 0 was returned and FINISH was seen, and ERROR was not."""
        if status == 0 and run.hasFinished and run.error is None:
            return
        if run.error is not None:
            what = f"the library reported an error{': ' if run.error else ''}{run.error}"
        elif status == 0:
            what = "rkllm_run returned 0 without finishing"
        else:
            what = f"rkllm_run returned {status}{'' if run.hasStarted else self._hintFor(inputs)}"
        raise RuntimeCallFailed(what, function="rkllm_run", status=status)

    def _hintFor(self, inputs: list[RKLLMInput]) -> str:
        """Why a run may have been refused before it began; only the log of the library says it."""
        reasons = [f"the prompt does not fit into max_context_len ({self._param.max_context_len} tokens)"]
        if any(input.chosen == "" for input in inputs):
            reasons.append("a prompt is empty")
        if self._param.extend_param.use_cross_attn and self._crossAttention is None:
            reasons.append("rkllm_set_cross_attn_params was not called")
        if any(input.role == "tool" for input in inputs):
            reasons.append('an input of the role "tool" is not JSON')
        return f" before any result; the log of the library says why, known reasons: {', or '.join(reasons)}"

    def _clearAfterAbort(self) -> None:
        """What an aborted run leaves in the KV cache is not known, and the next run might reuse it."""
        try:
            self.clearKVCache(False, None)
        except RuntimeCallFailed as error:
            self.log.warn("the KV cache could not be cleared after an abort: {error}", error=error)

    def abort(self) -> None:
        """See `IRuntimeModel.abort`. Reaches the library only while it runs: a late abort might hit the next run."""
        self._isAborted = True
        run = self._run
        if run is not None:
            run.abort()

    def prepare(self) -> None:
        """See `IRuntimeModel.prepare`."""
        self._isAborted = False

    def isRunning(self) -> bool:
        """Whether the library says that it computes. From any thread.

        Headers up to 1.2.3 say that 0 means running; every release does the opposite (issue 502).
        """
        return self._loaded.status("rkllm_is_running") != 0

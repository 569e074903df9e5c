"""A loaded model: the functions of RKLLM, on llama.cpp."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from rkllm_twisted.backends import RuntimeModel
from rkllm_twisted.backends.llamacpp import checking, promptcache
from rkllm_twisted.backends.llamacpp.adapters import Adapter
from rkllm_twisted.backends.llamacpp.context import Place
from rkllm_twisted.backends.llamacpp.generation import Generation, Strand
from rkllm_twisted.backends.llamacpp.inputs import Inputs
from rkllm_twisted.backends.llamacpp.loaded import Loaded
from rkllm_twisted.backends.llamacpp.promptcache import BadCache, PromptCache
from rkllm_twisted.backends.llamacpp.prompting import Prompting
from rkllm_twisted.backends.llamacpp.sampling import SamplerChain
from rkllm_twisted.backends.llamacpp.sequence import Sequence, agreement
from rkllm_twisted.backends.llamacpp.tensors import Tensors
from rkllm_twisted.errors import InvalidParams, NotSupported, PromptTooLong, RuntimeCallFailed
from rkllm_twisted.interfaces import OnResult
from rkllm_twisted.values import (
    Capability,
    Delivery,
    InferMode,
    RKLLMCrossAttnParam,
    RKLLMInferParam,
    RKLLMInput,
    RKLLMLoraAdapter,
    RKLLMParam,
    RKLLMSamplingParam,
    needs,
    refuseUnsupported,
    samplingOf,
)

CAPABILITIES = frozenset(set(Capability) - {Capability.CROSS_ATTENTION})
DEFAULT_NEW_TOKENS = 512
"""``max_new_tokens`` by default, and where it is 0: a page of text, so that a small model that does not find an end
does not fill its context."""
ALONE = {Capability.GET_LOGITS, Capability.PROMPT_CACHE}
"""What several inputs in a run cannot have. RKLLM refuses logits too (airockchip/rknn-llm issue 406)."""


class LlamaModel(RuntimeModel):
    """A loaded model. One thread calls it, `abort` and `prepare` excepted; see `IRuntimeModel`.

    Args:
        loaded: What is in C's memory; freed by `destroy`.
        param: What it was loaded with.
        systemPrompt: See `models.ModelFile`.
        seed: As for `runtime.LlamaRuntime`.
        seconds: As for `runtime.LlamaRuntime`.
    """

    def __init__(
        self,
        loaded: Loaded,
        param: RKLLMParam,
        systemPrompt: str | None,
        *,
        seed: int | None,
        seconds: Callable[[], float],
    ) -> None:
        self._loaded = loaded
        self._context = loaded.context
        self._param = param
        self._seed = seed
        self._seconds = seconds
        self._prompting = Prompting(loaded.chatTemplate, loaded.vocabulary.specialText(), systemPrompt)
        self._inputs = Inputs(loaded.vocabulary, loaded.context, param, loaded.takesNo)
        self._sequences = [Sequence(loaded.context, number) for number in range(loaded.context.sequences)]
        self._cache: PromptCache | None = None

    # A run

    def run(self, input: RKLLMInput, inferParam: RKLLMInferParam, onResult: OnResult, delivery: Delivery) -> str | None:
        """See `IRuntimeModel.run`.

        Without ``keep_history`` it begins anew; whole blocks of the last prompt that are the same are not computed
        again. With it, it goes on behind the runs before it that kept their history. When the context is full the
        oldest places make room, unless ``max_new_tokens`` is -1.

        The end token is reported like any other, without text if ``skip_special_token`` is set (measured on runtime
        1.3.1: the last NORMAL result before FINISH has no text).

        Raises:
            InvalidParams: A value of the input or of the parameters is wrong; nothing was started.
            NotSupported: The model cannot do it; nothing was started.
        """
        if len(self._sequences) > 1:
            raise InvalidParams(f"$.rkllm_input: expected {len(self._sequences)} inputs, as n_batch of init, got one")
        return self._run([input], inferParam, onResult, delivery)

    def runBatch(
        self,
        inputs: list[RKLLMInput],
        inferParam: RKLLMInferParam,
        onResult: OnResult,
        delivery: Delivery,
    ) -> str | None:
        """See `IRuntimeModel.runBatch`. Every step reports each input: one that has ended with ``token_id`` -1.

        Raises:
            InvalidParams, NotSupported: As `run`; logits and saving a prompt cache are of one input only.
        """
        if len(inputs) != len(self._sequences):
            expected = f"{len(self._sequences)} inputs, as n_batch of init"
            raise InvalidParams(f"$.rkllm_input: expected {expected}, got {len(inputs)}")
        for what in needs(inputs[0], inferParam) & ALONE:
            raise NotSupported(f"{what.value} is for one input at a time", needs="n_batch 1")
        return self._run(inputs, inferParam, onResult, delivery)

    def _run(
        self, inputs: list[RKLLMInput], inferParam: RKLLMInferParam, onResult: OnResult, delivery: Delivery
    ) -> str | None:
        refuseUnsupported(inputs, inferParam, CAPABILITIES)
        sampling = inferParam.sampling_params or samplingOf(self._param)
        checking.checkSampling(sampling, "$.rkllm_infer_params.sampling_params")
        adapter = self._loaded.adapters.chosen(inferParam.lora_params)
        target = promptcache.targetOf(inferParam.prompt_cache_params)
        tensors = Tensors(self._context, inferParam.mode, delivery)
        keeps = bool(inferParam.keep_history)
        self._begin(self._placesOf(inputs, keeps, tensors), keeps, adapter, reuses=not tensors.areWanted)
        try:
            with tensors, self._strands(inferParam, sampling) as strands:
                generation = Generation(
                    self._loaded, strands, tensors, onResult, self._param, self._kept, self._seconds
                )
                return self._generate(generation, keeps, adapter, target)
        except BaseException:
            for sequence in self._sequences:
                sequence.undo()
            raise

    def _generate(self, generation: Generation, keeps: bool, adapter: Adapter, target: str | None) -> str:
        caches: dict[str, PromptCache] = {}

        def prefillDone() -> None:
            for sequence in self._sequences:
                sequence.keep(keeps)
            if target is not None:  # now, while nothing of the answer is in it
                caches[target] = self._cacheOf(self._sequences[0], adapter)

        reason = generation.run(prefillDone)
        for path, cache in caches.items():
            promptcache.save(path, cache, self._loaded.fingerprint)
        return reason

    def _placesOf(self, inputs: list[RKLLMInput], keeps: bool, tensors: Tensors) -> list[list[Place]]:
        """What each input has to say, checked, with room for it where it continues."""
        places = []
        for sequence, input in zip(self._sequences, inputs, strict=True):
            continues = sequence.continues(keeps)
            where = "$.rkllm_input" if len(inputs) == 1 else f"$.rkllm_input[{sequence.number}]"
            write = self._prompting.writer(input, self._ended(sequence) if continues else None)
            places.append(self._inputs.places(input, where, write, begins=not continues))
            tensors.check(len(places[-1]))
            if continues:
                sequence.checkRoomFor(len(places[-1]), self._kept)
        for sequence, new in zip(self._sequences, places, strict=True):  # now that none of them is refused
            if sequence.continues(keeps):
                sequence.makeRoomFor(len(new) + 1, self._kept)
        return places

    def _begin(self, places: list[list[Place]], keeps: bool, adapter: Adapter, *, reuses: bool) -> None:
        self._context.useAdapter(adapter.pointer, adapter.scale)
        for sequence, new in zip(self._sequences, places, strict=True):
            sequence.begin(new, keeps=keeps, adapter=adapter.key, cache=self._cache, reuses=reuses)

    @contextmanager
    def _strands(self, inferParam: RKLLMInferParam, sampling: RKLLMSamplingParam) -> Iterator[list[Strand]]:
        isOne = len(self._sequences) == 1
        with ExitStack() as chains:
            strands = []
            for sequence in self._sequences:
                chain = SamplerChain(self._loaded.library, sampling, self._loaded.vocabulary.size, self._seed)
                chains.callback(chain.close)
                most = self._most(inferParam, sequence)
                strands.append(Strand(sequence, chain, most, None if isOne else sequence.number))
            yield strands

    def _most(self, inferParam: RKLLMInferParam, sequence: Sequence) -> int:
        """How many tokens a run generates at most."""
        if inferParam.mode is InferMode.RKLLM_INFER_GET_LAST_HIDDEN_LAYER:
            return 0
        asked = inferParam.max_new_tokens if inferParam.max_new_tokens > 0 else self._param.max_new_tokens
        return self._context.length - len(sequence.places) if asked == -1 else asked or DEFAULT_NEW_TOKENS

    def _ended(self, sequence: Sequence) -> str:
        """The text of the token that ended a sequence's last answer; "" if none did."""
        last = sequence.lastToken
        return self._loaded.vocabulary.text(last) if last >= 0 and self._loaded.vocabulary.isEnd(last) else ""

    def _kept(self, sequence: Sequence) -> int:
        """How many of the first places stay when the context is full; ``n_keep`` -1 means the system prompt."""
        asked = self._param.n_keep
        return self._systemPlaces(sequence) if asked < 0 else min(asked, len(sequence.places))

    def _systemPlaces(self, sequence: Sequence) -> int:
        """How many of the first places are the system prompt; none, where it is longer than the context."""
        try:
            system = self._loaded.vocabulary.tokenize(self._prompting.turns.system(), self._context.length)
        except PromptTooLong:
            return 0
        return agreement(system, sequence.places)

    def abort(self) -> None:
        """See `IRuntimeModel.abort`. Also after `destroy`: the flag is Python's memory."""
        self._context.stop.set()

    def prepare(self) -> None:
        """See `IRuntimeModel.prepare`."""
        self._context.stop.clear()

    def destroy(self) -> None:
        """Free the model. Calling it again does nothing."""
        self._loaded.free()

    # What is set up for runs

    def loadLora(self, adapter: RKLLMLoraAdapter) -> None:
        """See `IRuntimeModel.loadLora`.

        Raises:
            InvalidParams: The name is in use.
            RuntimeCallFailed: The file cannot be used with this model.
        """
        self._loaded.adapters.load(adapter)

    def setChatTemplate(self, systemPrompt: str, promptPrefix: str, promptPostfix: str) -> None:
        """See `IRuntimeModel.setChatTemplate`. Clears the KV cache, as RKLLM does (manual 1.3.0, section 3.2.11)."""
        self._prompting.setOwn(systemPrompt, promptPrefix, promptPostfix)
        self._clear()

    def setFunctionTools(self, systemPrompt: str, tools: str, toolResponse: str) -> None:
        """See `IRuntimeModel.setFunctionTools`. Clears the KV cache: the system prompt is another.

        Raises:
            InvalidParams: ``tools`` is not what it should be.
            NotSupported: The model has no chat template to write them with.
        """
        self._prompting.setTools(systemPrompt, tools, toolResponse)
        self._clear()

    def setCrossAttnParams(self, params: RKLLMCrossAttnParam) -> None:
        """Refused.

        Raises:
            NotSupported: With the reason.
        """
        raise NotSupported(checking.NO_CROSS_ATTENTION, needs=Capability.CROSS_ATTENTION.value)

    # The KV caches

    def clearKVCache(self, keepSystemPrompt: bool, ranges: list[tuple[int, int]] | None) -> None:
        """See `IRuntimeModel.clearKVCache`.

        Raises:
            InvalidParams: There is not one range for each sequence, or one ends behind what is in the cache.
        """
        if ranges is None:
            self._clear(self._systemPlaces if keepSystemPrompt else lambda sequence: 0)
            return
        if len(ranges) != len(self._sequences):
            raise InvalidParams(f"$.start_pos: expected {len(self._sequences)} numbers, as n_batch, got {len(ranges)}")
        for sequence, (_, end) in zip(self._sequences, ranges, strict=True):
            if end > sequence.computed:
                expected = f"at most {sequence.computed}, the tokens in the cache"
                raise InvalidParams(f"$.end_pos[{sequence.number}]: expected {expected}, got {end}")
        for sequence, (start, end) in zip(self._sequences, ranges, strict=True):
            sequence.remove(start, end)

    def getKVCacheSize(self) -> list[int]:
        """See `IRuntimeModel.getKVCacheSize`."""
        return [sequence.computed for sequence in self._sequences]

    def _clear(self, keep: Callable[[Sequence], int] = lambda sequence: 0) -> None:
        for sequence in self._sequences:
            sequence.clear(keep(sequence))

    # The prompt cache

    def loadPromptCache(self, path: str) -> None:
        """See `IRuntimeModel.loadPromptCache`. It takes the place of one that is loaded.

        Raises:
            RuntimeCallFailed: The file is missing, damaged or of another model.
        """
        try:
            self._cache = promptcache.load(path, self._loaded.fingerprint, self._context.length)
        except BadCache as reason:
            raise RuntimeCallFailed(str(reason), function="rkllm_load_prompt_cache", status=-1) from None

    def releasePromptCache(self) -> None:
        """See `IRuntimeModel.releasePromptCache`. With none loaded it does nothing."""
        self._cache = None

    def _cacheOf(self, sequence: Sequence, adapter: Adapter) -> PromptCache:
        return PromptCache(list(sequence.places), adapter.key, self._context.saved(sequence.number))

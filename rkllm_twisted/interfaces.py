"""The floors between the wire and a model, clause by clause.

Two floors, joined by zope adaptation:

- `IRuntime` and `IRuntimeModel` are blocking and have the shape of the C library. The author of a backend writes these.
- `IModelBackend`, `IModel` and `IGeneration` are asynchronous and live in the reactor's thread. The methods of the wire
  see these. ``IModelBackend(runtime)`` adapts the first floor to the second (`rkllm_twisted.backends.threaded`).

Each clause below is a test of `rkllm_twisted.testing.contract`, which runs over every backend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred
from twisted.plugin import IPlugin
from twisted.python.failure import Failure
from zope.interface import Attribute, Interface

from rkllm_twisted.values import (
    CallState,
    Capability,
    Delivery,
    Received,
    RKLLMCrossAttnParam,
    RKLLMInferParam,
    RKLLMInput,
    RKLLMLoraAdapter,
    RKLLMParam,
    RKLLMPerfStat,
    RKLLMResult,
)

OnResult = Callable[[RKLLMResult, CallState], None]
"""What a blocking run calls with each result, from any thread. It never raises."""


class IRuntime(Interface):
    """A blocking runtime, not loaded with a model. Its methods may block and are never called in the reactor's thread,
    `createDefaultParam` and the attributes excepted, which answer at once.
    """

    name: str = Attribute("The name under which ``--backend`` finds it, such as ``llamacpp``.")
    capabilities: frozenset[Capability] = Attribute("What it can do; what is missing fails with NotSupported.")

    def createDefaultParam() -> RKLLMParam:
        """The parameters that `init` takes where the caller gives none. Every field is set, ``model_path`` to ""."""

    def checkParam(param: RKLLMParam) -> None:
        """Refuse what `init` would refuse, as far as that can be told without loading anything.

        A loaded model is replaced only after this has passed for its successor, so it is asked while another model of
        the same runtime is loaded, and possibly running.

        Raises:
            ModelLoadFailed: The file is missing, a directory, unreadable or not a model.
            InvalidParams: A value is out of range; the detail begins with the JSON path ``$.param.FIELD``.
            NotSupported: A field is set that this runtime lacks (`refuseParam` knows those that have a capability).
        """

    def init(param: RKLLMParam) -> IRuntimeModel:
        """Load a model.

        Args:
            param: Every field set.

        Raises:
            ModelLoadFailed: With the reason.
            InvalidParams, NotSupported: As `checkParam`.
        """


class IRuntimeModel(Interface):
    """A loaded model of a blocking runtime. One thread calls it, `abort` and `prepare` excepted."""

    def run(input: RKLLMInput, inferParam: RKLLMInferParam, onResult: OnResult, delivery: Delivery) -> str | None:
        """Generate, and return when the generation has ended.

        ``onResult`` gets each token with the state NORMAL, or WAITING with ``text`` None while a character is
        unfinished (its text then comes whole, with a later result), and at last one FINISH with ``perf``. What was left
        of an unfinished character comes as U+FFFD in one NORMAL result with ``token_id`` -1 before the FINISH.

        In the mode GET_LOGITS each token's result has the logits from which it was chosen: the first a row for each
        token of the prompt, the others one row. In GET_LAST_HIDDEN_LAYER a row for each token of the prompt comes, all
        in one result, and no more than one token is generated. In the other modes there are no tensors.

        Text is put into the chat template; tokens and embeddings are taken as they are. The rows of an image take the
        place of their ``<image>``.

        ``delivery`` bounds the tensors (`Delivery.checkTensors`).

        With ``keep_history`` it goes on behind the runs before it that kept their history, without it it begins anew
        and ends that history. With ``lora_params`` it uses the adapter of that name, without it the model alone. With
        ``save_prompt_cache`` it writes the prompt's KV cache to a file; with one that was loaded an answer is
        the same but for rounding. ``sampling_params`` count for this run only.

        Returns:
            Why it ended: ``"stop"``, ``"length"`` or ``"abort"``; None where the runtime does not tell.

        Raises:
            InvalidParams, PromptTooLong, ResultTooLarge: Before any result. InvalidParams for an adapter that was not
                loaded, and, where the runtime can tell, for a token that the vocabulary lacks and for embeddings of
                another width than the model's; the detail begins with the JSON path ``$.rkllm_input`` or
                ``$.rkllm_infer_params``.
            RuntimeCallFailed: The runtime failed; the results so far stand. So for a result of a function (``role``
                "tool") that is no JSON, unless that is InvalidParams.
        """

    def runBatch(
        inputs: list[RKLLMInput], inferParam: RKLLMInferParam, onResult: OnResult, delivery: Delivery
    ) -> str | None:
        """As `run`, for as many inputs as the model's ``n_batch``; each result has its ``batch_index``, one FINISH ends
        them all. An input that has ended before the others has results with ``token_id`` -1, or none.
        """

    def abort() -> None:
        """Make the run in progress return soon: within one token in decode, as soon as possible in prefill.

        May be called from any thread, more than once, and with nothing running. Returns at once.
        """

    def prepare() -> None:
        """Forget every earlier `abort`: a run has been accepted, an abort from here on is meant for it.

        Called in the thread that accepts the run, before the run's own thread gets to it, so that an abort in between
        is not lost.
        """

    def destroy() -> None:
        """Free the model. Nothing is called afterwards."""

    def loadLora(adapter: RKLLMLoraAdapter) -> None:
        """Load a LoRA adapter under its name.

        Raises:
            InvalidParams: The name is in use.
            RuntimeCallFailed: The file is missing or cannot be used with this model; the name is not in use then.
        """

    def loadPromptCache(path: str) -> None:
        """Load a prompt cache file, for the prompts of later runs that begin as it does.

        Raises:
            RuntimeCallFailed: It is missing or, where the runtime can tell, damaged or of another model.
        """

    def releasePromptCache() -> None:
        """Let go of the loaded prompt cache; without one it does nothing."""

    def clearKVCache(keepSystemPrompt: bool, ranges: list[tuple[int, int]] | None) -> None:
        """Clear the KV cache, whole or the given ranges, one for each batch (start included, end excluded, in tokens).

        Args:
            keepSystemPrompt: Leaves the system prompt in it, if there is one; without effect on ranges.
            ranges: None clears everything, and ends the history.

        Raises:
            InvalidParams: A range is not one of what is in the cache.
            NotSupported, RuntimeCallFailed: The runtime clears no ranges, or not now; nothing was cleared.
        """

    def getKVCacheSize() -> list[int]:
        """Tokens in the KV cache, one number for each batch: 0 when it is clear. A token that was generated is in it as
        soon as another was computed behind it.
        """

    def setChatTemplate(systemPrompt: str, promptPrefix: str, promptPostfix: str) -> None:
        """Replace the model's chat template; three empty strings send prompts as they are. Clears the KV cache.

        Function tools are then left out, those that were set and those that will be.
        """

    def setFunctionTools(systemPrompt: str, tools: str, toolResponse: str) -> None:
        """Offer functions (a JSON text) to the model. Clears the KV cache.

        Raises:
            InvalidParams: ``tools`` is no JSON, or not what the runtime takes; nothing was changed.
        """

    def setCrossAttnParams(params: RKLLMCrossAttnParam) -> None:
        """Set the encoder's output for cross attention: for the runs from here on, of a model loaded for that
        (``use_cross_attn``).
        """


class IResultReceiver(Interface):
    """Gets what a generation produces, in the reactor's thread.

    Clauses: `resultsReceived` any number of times, then exactly one of the two endings; nothing from inside
    `IModel.run`; nothing after the ending.
    """

    def resultsReceived(results: Sequence[Received]) -> None:
        """Results in their order, at least one, each with the state NORMAL or WAITING.

        As many as there are: a fast model then costs one call, and its client one packet, for a number of tokens.
        """

    def generationFinished(perf: RKLLMPerfStat, reason: str | None) -> None:
        """The generation ended well, or was aborted (``reason`` "abort")."""

    def generationFailed(failure: Failure) -> None:
        """The generation failed; ``failure`` holds an `errors.RKLLMError`, or a defect."""


class IGeneration(Interface):
    """A run in progress."""

    def abort() -> None:
        """End it. Idempotent, returns at once; the receiver gets no more results, and still exactly one ending."""


class IModel(Interface):
    """A loaded model, seen from the reactor's thread."""

    capabilities: frozenset[Capability] = Attribute("As `IRuntime.capabilities`.")
    epoch: int = Attribute(
        "Changes whenever what the model kept of earlier runs is gone without anybody having asked for it."
    )

    def run(
        input: RKLLMInput, inferParam: RKLLMInferParam, receiver: IResultReceiver, delivery: Delivery
    ) -> IGeneration:
        """Start a generation.

        Raises:
            ModelBusy: A generation is running; the scheduler does the queueing.
            NotSupported: The backend lacks what this needs; nothing was started.
        """

    def runBatch(
        inputs: list[RKLLMInput], inferParam: RKLLMInferParam, receiver: IResultReceiver, delivery: Delivery
    ) -> IGeneration:
        """As `run`, for as many inputs as the model's ``n_batch``; each result has its ``batch_index``."""

    def isRunning() -> bool:
        """Whether a generation has been started and has not ended."""

    def abort() -> None:
        """Abort the generation that runs, if one does. Never touches the next one."""

    def destroy() -> Deferred[None]:
        """Abort what runs, wait for it to return, then free the model. Fires when it is freed. Idempotent."""

    def loadLora(adapter: RKLLMLoraAdapter) -> Deferred[None]:
        """As `IRuntimeModel.loadLora`; so for all below."""

    def loadPromptCache(path: str) -> Deferred[None]:
        """Load a prompt cache file."""

    def releasePromptCache() -> Deferred[None]:
        """Let go of the loaded prompt cache."""

    def clearKVCache(keepSystemPrompt: bool, ranges: list[tuple[int, int]] | None) -> Deferred[None]:
        """Clear the KV cache."""

    def getKVCacheSize() -> Deferred[list[int]]:
        """Tokens in the KV cache."""

    def setChatTemplate(systemPrompt: str, promptPrefix: str, promptPostfix: str) -> Deferred[None]:
        """Replace the chat template."""

    def setFunctionTools(systemPrompt: str, tools: str, toolResponse: str) -> Deferred[None]:
        """Offer functions to the model."""

    def setCrossAttnParams(params: RKLLMCrossAttnParam) -> Deferred[None]:
        """Set the encoder's output."""


class IModelBackend(Interface):
    """A backend, seen from the reactor's thread."""

    name: str = Attribute("As `IRuntime.name`.")
    capabilities: frozenset[Capability] = Attribute("As `IRuntime.capabilities`.")

    def createDefaultParam() -> RKLLMParam:
        """As `IRuntime.createDefaultParam`; answers at once."""

    def checkParam(param: RKLLMParam) -> Deferred[None]:
        """As `IRuntime.checkParam`."""

    def init(param: RKLLMParam) -> Deferred[IModel]:
        """Load a model. Fires with it, or fails as `IRuntime.init`."""


class IBackendMaker(IPlugin, Interface):  # an IPlugin is one; pydoctor, which does not read Twisted, is told
    """A plugin that makes a backend out of ``NAME:key=value:…`` (``--backend``).

    Found in ``twisted/plugins/`` of any package, as checkers are by ``twisted.cred.strcred``.
    `rkllm_twisted.backends.BackendMaker` implements it from strings.
    """

    name: str = Attribute("What stands before the first colon.")
    description: str = Attribute("One line for ``--list-backends``.")
    preference: int | None = Attribute(
        "Without ``--backend`` the usable backend of the highest preference serves; None is never taken unasked."
    )

    def unusable() -> str | None:
        """Why this backend cannot run on this machine and what to do about it; None if it can."""

    def makeBackend(options: dict[str, str]) -> IRuntime | IModelBackend:
        """Make the backend; light work only, nothing is loaded.

        Args:
            options: The ``key=value`` pairs of the string.

        Raises:
            ValueError: An option is unknown or its value is wrong; the message says which and what is expected.
        """

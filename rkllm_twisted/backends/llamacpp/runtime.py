"""The blocking runtime on llama.cpp: what a run is, from the client's parameters to its last result."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing

from zope.interface import implementer

from rkllm_twisted.backends import RuntimeModel
from rkllm_twisted.backends.llamacpp import checking
from rkllm_twisted.backends.llamacpp.generation import Generation
from rkllm_twisted.backends.llamacpp.library import Library, LibraryUnusable, theLibrary
from rkllm_twisted.backends.llamacpp.loaded import DEFAULT_CONTEXT, Loaded, load
from rkllm_twisted.backends.llamacpp.models import ModelFile, findModel
from rkllm_twisted.backends.llamacpp.sampling import SamplerChain
from rkllm_twisted.backends.llamacpp.template import ChatTemplate
from rkllm_twisted.errors import InvalidParams, ModelLoadFailed, NotSupported, PromptTooLong
from rkllm_twisted.interfaces import IRuntime, IRuntimeModel, OnResult
from rkllm_twisted.values import (
    Capability,
    Delivery,
    InputType,
    RKLLMExtendParam,
    RKLLMInferParam,
    RKLLMInput,
    RKLLMParam,
    needs,
    samplingOf,
)

CAPABILITIES = frozenset(
    {
        Capability.PROMPT_INPUT,
        Capability.TOKEN_INPUT,
        Capability.SAMPLING_PER_RUN,
        Capability.MAX_NEW_TOKENS_PER_RUN,
    }
)
DEFAULT_NEW_TOKENS = 512
"""``max_new_tokens`` by default, and where it is 0: a page of text, so that a small model that does not find an end
does not fill its context."""
CPUS = 8
"""``rkllm.h`` names CPU0 to CPU7."""


@implementer(IRuntime)
class LlamaRuntime:
    """llama.cpp on the CPU. Nothing is opened before `init`.

    Args:
        threads: How many threads compute, for each model.
        seed: Makes sampling repeatable from run to run; None is random for each run.
        openLibrary: Gives the C functions; may block.
        seconds: A monotonic clock, for the figures of a run.
    """

    name = "llamacpp"
    capabilities = CAPABILITIES

    def __init__(
        self,
        *,
        threads: int,
        seed: int | None = None,
        openLibrary: Callable[[], Library] = theLibrary,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._threads = threads
        self._seed = seed
        self._openLibrary = openLibrary
        self._seconds = seconds

    def createDefaultParam(self) -> RKLLMParam:
        """The documented defaults of RKLLM (manual 1.3.0, section 3.2.2).

        Of the two that are not documented, ``max_context_len`` is 2048, which nearly every model allows, and
        ``max_new_tokens`` is 512. The CPU fields name the first cores of this machine; they have no effect.
        ``skip_special_token`` is true, against RKLLM's false: with that, every answer would end in ``<|im_end|>``.
        """
        cpus = max(1, min(CPUS, os.cpu_count() or 1))
        extend = RKLLMExtendParam(enabled_cpus_num=cpus, enabled_cpus_mask=2**cpus - 1)
        return RKLLMParam(
            max_context_len=DEFAULT_CONTEXT,
            max_new_tokens=DEFAULT_NEW_TOKENS,
            skip_special_token=True,
            extend_param=extend,
        )

    def checkParam(self, param: RKLLMParam) -> None:
        """See `IRuntime.checkParam`. Reads the file's header."""
        self._checked(param)

    def init(self, param: RKLLMParam) -> IRuntimeModel:
        """See `IRuntime.init`."""
        file = self._checked(param)
        try:
            library = self._openLibrary()
        except LibraryUnusable as reason:
            raise ModelLoadFailed(str(reason)) from reason
        loaded = load(library, file, contextLength=param.max_context_len, threads=self._threads)
        return LlamaModel(loaded, param, file.systemPrompt, seed=self._seed, seconds=self._seconds)

    def _checked(self, param: RKLLMParam) -> ModelFile:
        checking.checkParam(param)
        file = findModel(param.model_path)
        checking.checkContext(file.name, param.max_context_len, file.header.contextLimit)
        return file


class LlamaModel(RuntimeModel):
    """A loaded model. One thread calls it, `abort` and `prepare` excepted; see `IRuntimeModel`.

    Args:
        loaded: What is in C's memory; freed by `destroy`.
        param: What it was loaded with.
        systemPrompt: See `models.ModelFile`.
        seed: As for `LlamaRuntime`.
        seconds: As for `LlamaRuntime`.
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
        self._param = param
        self._seed = seed
        self._seconds = seconds
        bos, eos = loaded.specialText()
        self._template = ChatTemplate(loaded.chatTemplate, bos=bos, eos=eos, systemPrompt=systemPrompt)

    def run(
        self, input: RKLLMInput, inferParam: RKLLMInferParam, onResult: OnResult, delivery: Delivery = Delivery()
    ) -> str | None:
        """See `IRuntimeModel.run`. Each run starts with an empty context; a full context ends it with ``"length"``.

        The end token is reported like any other, without text if ``skip_special_token`` is set (measured on runtime
        1.3.1: the last NORMAL result before FINISH has no text).

        Raises:
            InvalidParams: A value of the input or of the sampling parameters is wrong; nothing was started.
            NotSupported: The run needs what is not in `CAPABILITIES`; nothing was started.
        """
        for capability in sorted(needs(input, inferParam) - CAPABILITIES):
            raise NotSupported(needs=capability.value)
        sampling = inferParam.sampling_params or samplingOf(self._param)
        checking.checkSampling(sampling, "$.rkllm_infer_params.sampling_params")
        prompt = self._tokens(input)
        loaded = self._loaded
        most = min(self._newTokens(inferParam), loaded.length - len(prompt))
        loaded.clear()
        with closing(SamplerChain(loaded.library, sampling, loaded.vocabularySize, self._seed)) as chain:
            generation = Generation(
                loaded,
                chain,
                onResult,
                skipSpecial=bool(self._param.skip_special_token),
                ignoreEnd=bool(self._param.ignore_eos_token),
                seconds=self._seconds,
            )
            return generation.run(prompt, most)

    def abort(self) -> None:
        """See `IRuntimeModel.abort`. Also after `destroy`: the flag is Python's memory."""
        self._loaded.stop()

    def prepare(self) -> None:
        """See `IRuntimeModel.prepare`."""
        self._loaded.resume()

    def destroy(self) -> None:
        """Free the model. Calling it again does nothing."""
        self._loaded.free()

    def _tokens(self, input: RKLLMInput) -> list[int]:
        checking.checkInput(input)
        if input.input_type is InputType.RKLLM_INPUT_TOKEN:
            tokens = checking.tokensOf(input, self._loaded.vocabularySize)
        else:
            thinks = bool(input.enable_thinking)
            tokens = self._loaded.tokenize(
                self._template.render(input.prompt_input or "", role=input.role, enableThinking=thinks)
            )
        if not tokens:
            raise InvalidParams("$.rkllm_input.prompt_input: expected a text of at least one token")
        if len(tokens) >= self._loaded.length:
            raise PromptTooLong(tokens=len(tokens), limit=self._loaded.length)
        return tokens

    def _newTokens(self, inferParam: RKLLMInferParam) -> int:
        asked = inferParam.max_new_tokens if inferParam.max_new_tokens > 0 else self._param.max_new_tokens
        return self._loaded.length if asked == -1 else asked or DEFAULT_NEW_TOKENS

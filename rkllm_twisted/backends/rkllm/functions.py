"""The functions of the library that set something up for the runs of a loaded model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from twisted.logger import Logger

from rkllm_twisted.backends import RuntimeModel
from rkllm_twisted.backends.rkllm import checking
from rkllm_twisted.backends.rkllm.loaded import Loaded
from rkllm_twisted.backends.rkllm.writing import Writer
from rkllm_twisted.errors import InvalidParams, NotSupported, RuntimeCallFailed
from rkllm_twisted.ranges import checkFields, checkNul
from rkllm_twisted.values import Capability, RKLLMCrossAttnParam, RKLLMLoraAdapter, RKLLMParam
from rkllm_twisted.values.arrays import checkCrossAttention

NO_PAUSE = ": by the manual (1.3.0, section 3.2.10) only ranges of a paused run can be cleared, and none is paused"
"""Why ranges of the KV cache may be refused. What a pause does to the next prompt is why there is none."""

Conditions = tuple[str | None, int]
"""What a part of the KV cache was computed under: the name of a LoRA adapter, and the number of an encoder's output."""
MIXED: Conditions = None, -1
"""Of a cache whose parts differ in that."""


class ModelFunctions(RuntimeModel):
    """A loaded model, its runs excepted. One thread calls it.

    Strings and the LoRA adapter are the library's business during the call only: the vendor's demo frees them then.

    Args:
        loaded: Its handle; destroyed by `destroy`.
        param: What it was loaded with, every choice made.
    """

    log = Logger()

    def __init__(self, loaded: Loaded, param: RKLLMParam) -> None:
        self._loaded = loaded
        self._family = loaded.library.family
        self._ffi = loaded.library.ffi
        self._param = param
        self._batch = param.extend_param.n_batch
        self._adapters: set[str] = set()
        self._promptCache: str | None = None
        self._crossAttention: Writer | None = None
        self._encodings = 0
        self._cachedUnder: Conditions | None = None

    def destroy(self) -> None:
        """Free the model. Calling it again does nothing."""
        self._loaded.destroy()
        self._crossAttention = None

    def loadLora(self, adapter: RKLLMLoraAdapter) -> None:
        """See `IRuntimeModel.loadLora`. There is no way to unload one.

        Raises:
            InvalidParams: The name is taken.
            RuntimeCallFailed: The library refused it.
        """
        where = "$.lora_adapter"
        checkFields(adapter, where)
        checkNul(adapter, where)
        if adapter.lora_adapter_name in self._adapters:
            raise InvalidParams(f"{where}.lora_adapter_name: an adapter {adapter.lora_adapter_name} is loaded already")
        checking.checkRegular(adapter.lora_adapter_path, "rkllm_load_lora")
        writer = Writer(self._ffi)
        self._loaded.call("rkllm_load_lora", writer.new("RKLLMLoraAdapter", adapter))
        self._adapters.add(adapter.lora_adapter_name)

    def loadPromptCache(self, path: str) -> None:
        """See `IRuntimeModel.loadPromptCache`. One that is loaded is let go of first, as the manual wants (3.2.9)."""
        checkNul(path, "$.prompt_cache_path")
        checking.checkRegular(path, "rkllm_load_prompt_cache")
        self.releasePromptCache()
        self._loaded.call("rkllm_load_prompt_cache", Writer(self._ffi).text(path))
        self._promptCache = path

    def releasePromptCache(self) -> None:
        """See `IRuntimeModel.releasePromptCache`. With none loaded the library is not asked."""
        if self._promptCache is not None:
            self._loaded.call("rkllm_release_prompt_cache")
            self._promptCache = None

    @contextmanager
    def _withoutPromptCache(self) -> Iterator[None]:
        """Let go of the loaded prompt cache for a while, and load it again."""
        path = self._promptCache
        self.releasePromptCache()
        try:
            yield
        finally:
            if path is not None:
                self._loadAgain(path)

    def _loadAgain(self, path: str) -> None:
        try:
            self.loadPromptCache(path)
        except RuntimeCallFailed as error:  # it changes no answer, and is missed by nobody but the clock
            self.log.warn("the prompt cache could not be loaded again: {error}", error=error)

    def clearKVCache(self, keepSystemPrompt: bool, ranges: list[tuple[int, int]] | None) -> None:
        """See `IRuntimeModel.clearKVCache`. Ranges came with 1.2.1, one for each input of the model."""
        self._need(Capability.CLEAR_KV_CACHE)
        keep, null = int(keepSystemPrompt), self._ffi.NULL
        if Capability.KV_CACHE_SIZE not in self._family.capabilities:  # the releases with the two arguments
            if ranges is not None:
                raise NotSupported(
                    "$.start_pos: this release clears the whole cache only", needs="runtime 1.2.1 or newer"
                )
            self._loaded.call("rkllm_clear_kv_cache", keep)
        elif ranges is None:
            self._loaded.call("rkllm_clear_kv_cache", keep, null, null)
        else:
            checking.checkRanges(ranges, self.getKVCacheSize())
            starts, ends = (self._ffi.new("int[]", list(side)) for side in zip(*ranges, strict=True))
            self._loaded.call("rkllm_clear_kv_cache", keep, starts, ends, hint=NO_PAUSE)
        if not keepSystemPrompt and ranges is None:
            self._cachedUnder = None

    def getKVCacheSize(self) -> list[int]:
        """See `IRuntimeModel.getKVCacheSize`. What else the function returns is not documented: less than 0 fails."""
        self._need(Capability.KV_CACHE_SIZE)
        sizes = self._ffi.new("int[]", self._batch)
        status = self._loaded.status("rkllm_get_kv_cache_size", sizes)
        if status < 0:
            what = f"rkllm_get_kv_cache_size returned {status}"
            raise RuntimeCallFailed(what, function="rkllm_get_kv_cache_size", status=status)
        return list(sizes)

    def setChatTemplate(self, systemPrompt: str, promptPrefix: str, promptPostfix: str) -> None:
        """See `IRuntimeModel.setChatTemplate`. The library clears its KV cache then."""
        self._need(Capability.CHAT_TEMPLATE)
        self._setTexts(
            "rkllm_set_chat_template",
            system_prompt=systemPrompt,
            prompt_prefix=promptPrefix,
            prompt_postfix=promptPostfix,
        )

    def setFunctionTools(self, systemPrompt: str, tools: str, toolResponse: str) -> None:
        """See `IRuntimeModel.setFunctionTools`.

        That the library clears its KV cache is documented for the chat template only (manual 1.3.0, section 3.2.11); in
        a history that goes on the new functions would never be shown. So it is told to.
        """
        self._need(Capability.FUNCTION_TOOLS)
        checking.checkTools(tools)
        texts = {"system_prompt": systemPrompt, "tools": tools, "tool_response_str": toolResponse}
        self._setTexts("rkllm_set_function_tools", **texts)
        self.clearKVCache(False, None)

    def _setTexts(self, function: str, **texts: str) -> None:
        for name, text in texts.items():
            checkNul(text, f"$.{name}")
        writer = Writer(self._ffi)
        self._loaded.call(function, *map(writer.text, texts.values()))

    def setCrossAttnParams(self, params: RKLLMCrossAttnParam) -> None:
        """See `IRuntimeModel.setCrossAttnParams`. Kept until the next: whether the library copies it is not known."""
        self._need(Capability.CROSS_ATTENTION)
        if not self._param.extend_param.use_cross_attn:
            raise NotSupported("the model was loaded without use_cross_attn", needs="use_cross_attn 1 at rkllm.init")
        checkFields(params, "$.cross_attn_params")
        checkCrossAttention(params)
        writer = Writer(self._ffi)
        self._loaded.call("rkllm_set_cross_attn_params", writer.new("RKLLMCrossAttnParam", params))
        self._crossAttention = writer
        self._encodings += 1

    def _need(self, capability: Capability) -> None:
        if capability not in self._family.capabilities:
            raise NotSupported(needs=capability.value)

"""The functions of the runtime that set something up for the runs of the loaded model."""

from __future__ import annotations

from msgspec import structs
from twisted.internet.defer import Deferred

from rkllm_twisted.errors import RuntimeCallFailed
from rkllm_twisted.interfaces import IModel
from rkllm_twisted.methods.checks import checkLora, checkPromptCache, checkRanges
from rkllm_twisted.methods.decoding import completed
from rkllm_twisted.methods.held import HeldModel, success
from rkllm_twisted.methods.parameters import (
    ChatTemplateParams,
    ClearParams,
    CrossAttentionParams,
    FunctionToolsParams,
    LoraParams,
    PromptCacheParams,
)
from rkllm_twisted.methods.roots import OpenedFile, inWords
from rkllm_twisted.methods.table import Answer, Method, NoParams
from rkllm_twisted.values.arrays import checkCrossAttention
from rkllm_twisted.wire.connection import Call
from rkllm_twisted.wire.messages import encode

_CACHE = "prompt cache"


class FunctionMethods:
    """Carries these out, each in a turn of its own.

    Args:
        held: The model.
    """

    def __init__(self, held: HeldModel) -> None:
        self._held = held

    def methods(self) -> list[Method]:
        """The rows of the table."""
        return [
            Method("rkllm.load_lora", LoraParams, self.loadLora),
            Method("rkllm.load_prompt_cache", PromptCacheParams, self.loadPromptCache),
            Method("rkllm.release_prompt_cache", NoParams, self.releasePromptCache),
            Method("rkllm.clear_kv_cache", ClearParams, self.clearKVCache),
            Method("rkllm.get_kv_cache_size", NoParams, self.getKVCacheSize),
            Method("rkllm.set_chat_template", ChatTemplateParams, self.setChatTemplate),
            Method("rkllm.set_function_tools", FunctionToolsParams, self.setFunctionTools),
            Method("rkllm.set_cross_attn_params", CrossAttentionParams, self.setCrossAttnParams),
        ]

    def loadLora(self, call: Call, params: LoraParams) -> Deferred[Answer]:
        """Load a LoRA adapter; runs choose it by its name."""
        adapter = completed(params.lora_adapter)
        checkLora(adapter)
        file = self._opened("$.lora_adapter.lora_adapter_path", adapter.lora_adapter_path, "rkllm_load_lora")
        done = self._held.withFile(
            call, file, lambda model, path: model.loadLora(structs.replace(adapter, lora_adapter_path=path))
        )
        return done.addCallback(lambda _: success(f"adapter {adapter.lora_adapter_name} loaded"))

    def loadPromptCache(self, call: Call, params: PromptCacheParams) -> Deferred[Answer]:
        """Load a prompt cache file."""
        path = params.prompt_cache_path
        checkPromptCache(path)
        file = self._opened("$.prompt_cache_path", path, "rkllm_load_prompt_cache")
        done = self._held.withFile(call, file, lambda model, inside: model.loadPromptCache(inside), _CACHE)
        return done.addCallback(lambda _: success("prompt cache loaded", cache_path=path))

    def _opened(self, where: str, path: str, function: str) -> OpenedFile:
        try:
            return self._held.roots.file(path, where)
        except OSError as error:
            raise RuntimeCallFailed(inWords(error), function=function, status=-1) from None

    def releasePromptCache(self, call: Call, params: NoParams) -> Deferred[Answer]:
        """Let go of the loaded prompt cache."""
        done = self._held.withModel(call, lambda model: model.releasePromptCache())
        done.addCallback(lambda _: self._held.letGo(_CACHE))
        return done.addCallback(lambda _: success("prompt cache released"))

    def clearKVCache(self, call: Call, params: ClearParams) -> Deferred[Answer]:
        """Clear the KV cache, whole or in ranges."""
        keep = bool(params.keep_system_prompt)
        ranges = checkRanges(params.start_pos, params.end_pos)

        def clear(model: IModel) -> Deferred[None]:
            # Places in the history of another mean nothing to this client: all of it goes.
            history = self._held.history
            done = model.clearKVCache(keep, None if history.isAnothers(call.connection) else ranges)
            return done.addCallback(lambda _: history.cleared(call.connection))

        done = self._held.withModel(call, clear)
        return done.addCallback(lambda _: success("KV cache cleared", keep_system_prompt=keep))

    def getKVCacheSize(self, call: Call, params: NoParams) -> Deferred[Answer]:
        """How many tokens the KV cache holds, one number for each batch."""
        done = self._held.withModel(call, lambda model: model.getKVCacheSize())
        return done.addCallback(lambda sizes: success("KV cache sizes in tokens", cache_sizes=sizes))

    def setChatTemplate(self, call: Call, params: ChatTemplateParams) -> Deferred[Answer]:
        """Replace the model's chat template."""
        parts = structs.asdict(params)
        done = self._held.withModel(call, lambda model: model.setChatTemplate(*parts.values()))
        return done.addCallback(lambda _: self._choose(call, "chat template", parts))

    def setFunctionTools(self, call: Call, params: FunctionToolsParams) -> Deferred[Answer]:
        """Offer functions to the model."""
        tools = params.tools if isinstance(params.tools, str) else encode(params.tools).decode()
        done = self._held.withModel(
            call, lambda model: model.setFunctionTools(params.system_prompt, tools, params.tool_response_str)
        )
        return done.addCallback(lambda _: self._choose(call, "function tools", structs.asdict(params)))

    def _choose(self, call: Call, what: str, values: dict[str, object]) -> Answer:
        """A template or tools have been set, which clears the cache; with both, one is left out (W-TOOLS)."""
        self._held.history.cleared(call.connection)
        self._held.chosen.add(what)
        both = ", but with a chat template of one's own the runtime does not inject the tools"
        return success(f"{what} set{both if len(self._held.chosen) > 1 else ''}", **values)

    def setCrossAttnParams(self, call: Call, params: CrossAttentionParams) -> Deferred[Answer]:
        """Set the encoder's output for cross attention."""
        cross = completed(params.cross_attn_params)
        checkCrossAttention(cross)
        done = self._held.withModel(call, lambda model: model.setCrossAttnParams(cross))
        return done.addCallback(lambda _: success("cross attention set", num_tokens=cross.num_tokens))

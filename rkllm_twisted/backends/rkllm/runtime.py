"""The blocking runtime on the NPU: ``librkllmrt.so`` as `IRuntime`."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import structs
from zope.interface import implementer

from rkllm_twisted.backends.rkllm.checking import checkModelFile, checkParam
from rkllm_twisted.backends.rkllm.cpus import chosenCPUs, defaultCPUs
from rkllm_twisted.backends.rkllm.families import Family
from rkllm_twisted.backends.rkllm.library import Library, LibraryUnusable
from rkllm_twisted.backends.rkllm.loaded import load
from rkllm_twisted.backends.rkllm.model import RkllmModel
from rkllm_twisted.backends.rkllm.sampling import greedy
from rkllm_twisted.errors import ModelLoadFailed
from rkllm_twisted.interfaces import IRuntime, IRuntimeModel
from rkllm_twisted.values import RKLLMExtendParam, RKLLMParam, samplingOf

DEFAULT_CONTEXT = 4096
"""``max_context_len`` by default. The vendor's default is not documented; the limits of published model files are 4096
and 16384, and a context above the file's limit is refused."""
DEFAULT_NEW_TOKENS = 512
"""``max_new_tokens`` by default: a page of text. The vendor's default is not documented, and a limit there must be: a
generation does not stop at the end of the context (measured on 1.3.1), nor, on 1.3.0, at the end token of files of the
toolkits 1.2.2 and 1.2.3."""


@implementer(IRuntime)
class RkllmRuntime:
    """The vendor's library. Nothing is opened before `init`.

    Args:
        family: Of the library.
        openLibrary: Opens it; may block.
    """

    name = "rkllm"

    def __init__(self, family: Family, openLibrary: Callable[[], Library]) -> None:
        self.capabilities = family.capabilities
        self.family = family
        self._openLibrary = openLibrary

    def createDefaultParam(self) -> RKLLMParam:
        """The documented defaults (manual 1.3.0, section 3.2.2), without asking the library.

        Those that are not documented: `DEFAULT_CONTEXT`, `DEFAULT_NEW_TOKENS`; ``embed_flash`` 1, as in the vendor's
        servers; ``skip_special_token`` true, without which 1.3.0 prints the end token.
        """
        extend = RKLLMExtendParam()
        if self.family.hasField("RKLLMExtendParam", "enabled_cpus_mask"):
            count, mask = defaultCPUs()
            extend = RKLLMExtendParam(embed_flash=1, enabled_cpus_num=count, enabled_cpus_mask=mask)
        return RKLLMParam(
            max_context_len=DEFAULT_CONTEXT,
            max_new_tokens=DEFAULT_NEW_TOKENS,
            skip_special_token=True,
            extend_param=extend,
        )

    def checkParam(self, param: RKLLMParam) -> None:
        """See `IRuntime.checkParam`. Of the file it is checked that it can be read."""
        checkParam(self.family, param, param.max_context_len or DEFAULT_CONTEXT)
        checkModelFile(param.model_path)

    def init(self, param: RKLLMParam) -> IRuntimeModel:
        """See `IRuntime.init`."""
        self.checkParam(param)
        param = settled(self.family, param)
        try:
            library = self._openLibrary()
        except LibraryUnusable as reason:
            raise ModelLoadFailed(str(reason)) from reason
        return RkllmModel(load(library, param), param)


def settled(family: Family, param: RKLLMParam) -> RKLLMParam:
    """The parameters as the library gets them: every choice that was left open is made."""
    extend = param.extend_param
    if family.hasField("RKLLMExtendParam", "enabled_cpus_mask"):
        count, mask = chosenCPUs(extend)
        extend = structs.replace(extend, enabled_cpus_num=count, enabled_cpus_mask=mask)
    context = param.max_context_len or DEFAULT_CONTEXT
    newTokens = context if param.max_new_tokens == -1 else param.max_new_tokens or DEFAULT_NEW_TOKENS
    return structs.replace(
        param,
        **structs.asdict(greedy(samplingOf(param))),
        max_context_len=context,
        max_new_tokens=min(newTokens, context),
        is_async=False,  # what it does is not documented, and the vendor's own programs leave it alone
        extend_param=extend,
    )

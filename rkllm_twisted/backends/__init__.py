"""Where backends come from: ``name:key=value`` into a backend, and what authors of backends start from.

A backend is found by its `interfaces.IBackendMaker` plugin; nothing here knows any of them by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from twisted.plugin import IPlugin, getPlugins
from twisted.python.components import registerAdapter
from twisted.python.reflect import namedAny
from zope.interface import implementer

from rkllm_twisted.errors import ModelBusy, ModelNotInitialized, NotSupported
from rkllm_twisted.interfaces import IBackendMaker, IModel, IModelBackend, IRuntime, IRuntimeModel, OnResult
from rkllm_twisted.values import (
    Capability,
    Delivery,
    RKLLMCrossAttnParam,
    RKLLMInferParam,
    RKLLMInput,
    RKLLMLoraAdapter,
    RKLLMParam,
    refuseParam,
    refuseUnsupported,
)


class NoSuchBackend(ValueError):
    """No backend of that name, or none that can run here. The message lists what there is."""


def splitDescription(description: str, unnamed: str = "") -> tuple[str, dict[str, str]]:
    r"""Split a string in the manner of endpoint strings.

    Args:
        description: ``name:key=value:key=value``; a colon or backslash inside a value is written ``\:`` or ``\\``.
        unnamed: The key of the first value, if that may stand without one.

    Returns:
        The name and the pairs.

    Raises:
        ValueError: A part after the name has no ``=``, or a key comes twice.
    """
    name, *parts = (re.sub(r"\\(.)", r"\1", part) for part in re.findall(r"(?:^|:)((?:\\.|[^:\\])*)", description))
    pairs: dict[str, str] = {}
    for index, part in enumerate(parts):
        if unnamed and index == 0 and not part.startswith(f"{unnamed}="):
            part = f"{unnamed}={part}"  # the same part, spelled out
        key, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"{description!r}: {part!r} should be key=value")
        if key in pairs:
            raise ValueError(f"{description!r}: {key!r} is given twice")
        pairs[key] = value
    return name, pairs


def joinDescription(name: str, pairs: dict[str, str]) -> str:
    """The string that `splitDescription` splits into a name and pairs."""
    parts = (f"{key}={value}".replace("\\", r"\\").replace(":", r"\:") for key, value in pairs.items())
    return ":".join((name, *parts))


def backendMakers() -> list[IBackendMaker]:
    """Every backend installed, the most preferred first."""
    makers: Iterable[IBackendMaker] = getPlugins(IBackendMaker)
    return sorted(makers, key=lambda maker: (maker.preference is None, -(maker.preference or 0), maker.name))


def bestBackend() -> str:
    """The name of the most preferred backend that this machine can run.

    Raises:
        NoSuchBackend: There is none.
    """
    return _firstUsable(backendMakers()).name


def makeBackend(description: str | None) -> IRuntime | IModelBackend:
    """The backend that a ``--backend`` string names; adapt it to `IModelBackend` before use.

    Args:
        description: ``name:key=value:…``, or None for `bestBackend`.

    Raises:
        NoSuchBackend: None of that name, or none usable.
        ValueError: The string or an option in it is wrong.
    """
    name, options = splitDescription(bestBackend() if description is None else description)
    maker = _named(name, backendMakers())
    isCured = isinstance(maker, BackendMaker) and not maker.cures.isdisjoint(options)
    if not isCured and (reason := maker.unusable()) is not None:
        raise NoSuchBackend(f"backend {name} cannot run here: {reason}")
    return maker.makeBackend(options)


def located(description: str) -> str:
    """A ``--backend`` string that means the same backend to a process in another directory: its paths are absolute.

    Args:
        description: ``name:key=value:…``; that of a backend that is not installed is left as it is.

    Raises:
        ValueError: The string is wrong, or what an option names is not there.
    """
    name, options = splitDescription(description)
    maker = next((each for each in backendMakers() if each.name == name), None)
    return joinDescription(name, maker.located(options)) if isinstance(maker, BackendMaker) else description


def _firstUsable(makers: list[IBackendMaker]) -> IBackendMaker:
    reasons = []
    for maker in makers:
        if maker.preference is None:
            continue
        reason = maker.unusable()
        if reason is None:
            return maker
        reasons.append(f"{maker.name}: {reason}")
    raise NoSuchBackend(f"no backend can run here ({'; '.join(reasons) or 'none is installed'})")


def _named(name: str, makers: list[IBackendMaker]) -> IBackendMaker:
    for maker in makers:
        if maker.name == name:
            return maker
    raise NoSuchBackend(f"no backend is called {name!r}; there are {', '.join(maker.name for maker in makers)}")


@implementer(IPlugin, IBackendMaker)
class BackendMaker:
    """A maker that imports its backend only when it is asked.

    Args:
        name: What stands before the first colon of ``--backend``.
        description: One line for ``--list-backends``.
        make: The full name of a function of the options (keywords, all strings) that returns the backend.
        unusable: The full name of a function that returns why the backend cannot run here, or None; by default it
            always can.
        preference: See `IBackendMaker`.
        cures: Options that may make up for what ``unusable`` finds, such as the path of a library: with one of them the
            backend says itself what is wrong, when it is made.
        locate: The full name of a function of the options that returns them with every path absolute; by default none
            of them is a path.
    """

    def __init__(
        self,
        name: str,
        description: str,
        make: str,
        unusable: str | None = None,
        preference: int | None = None,
        cures: Iterable[str] = (),
        locate: str | None = None,
    ) -> None:
        self.name = name
        self.description = description
        self.preference = preference
        self.cures = frozenset(cures)
        self._make = make
        self._unusable = unusable
        self._locate = locate

    def unusable(self) -> str | None:
        """Ask the named function."""
        reason: str | None = namedAny(self._unusable)() if self._unusable else None
        return reason

    def makeBackend(self, options: dict[str, str]) -> IRuntime | IModelBackend:
        """Call the named function."""
        backend: IRuntime | IModelBackend = namedAny(self._make)(options)
        return backend

    def located(self, options: dict[str, str]) -> dict[str, str]:
        """Ask the named function for the same options with every path absolute."""
        located: dict[str, str] = namedAny(self._locate)(options) if self._locate else options
        return located


def checkParam(runtime: IRuntime, param: RKLLMParam) -> None:
    """Refuse parameters that a runtime refuses, or that need what it is not capable of. May block.

    Raises:
        ModelLoadFailed, InvalidParams, NotSupported: As `IRuntime.checkParam`.
    """
    runtime.checkParam(param)  # first: it may know the reason
    refuseParam(param, runtime.capabilities)


def checkRun(model: IModel, isDestroyed: bool, inputs: list[RKLLMInput], inferParam: RKLLMInferParam) -> None:
    """Refuse a run that a model cannot start now. In the reactor's thread.

    Raises:
        ModelNotInitialized: The model is destroyed.
        ModelBusy: A generation is running.
        NotSupported: The model lacks what the run needs.
    """
    if isDestroyed:
        raise ModelNotInitialized("this model is destroyed")
    if model.isRunning():
        raise ModelBusy
    refuseUnsupported(inputs, inferParam, model.capabilities)


class OptionalFunctions:
    """A base for models, of either floor: every function that a backend may lack says that it is not supported."""

    def runBatch(self, inputs: list[RKLLMInput], inferParam: RKLLMInferParam, *results: Any) -> Any:
        raise NotSupported(needs=Capability.BATCHES.value)

    def loadLora(self, adapter: RKLLMLoraAdapter) -> Any:
        raise NotSupported(needs=Capability.LORA.value)

    def loadPromptCache(self, path: str) -> Any:
        raise NotSupported(needs=Capability.PROMPT_CACHE.value)

    def releasePromptCache(self) -> Any:
        raise NotSupported(needs=Capability.PROMPT_CACHE.value)

    def clearKVCache(self, keepSystemPrompt: bool, ranges: list[tuple[int, int]] | None) -> Any:
        raise NotSupported(needs=Capability.CLEAR_KV_CACHE.value)

    def getKVCacheSize(self) -> Any:
        raise NotSupported(needs=Capability.KV_CACHE_SIZE.value)

    def setChatTemplate(self, systemPrompt: str, promptPrefix: str, promptPostfix: str) -> Any:
        raise NotSupported(needs=Capability.CHAT_TEMPLATE.value)

    def setFunctionTools(self, systemPrompt: str, tools: str, toolResponse: str) -> Any:
        raise NotSupported(needs=Capability.FUNCTION_TOOLS.value)

    def setCrossAttnParams(self, params: RKLLMCrossAttnParam) -> Any:
        raise NotSupported(needs=Capability.CROSS_ATTENTION.value)


@implementer(IRuntimeModel)
class RuntimeModel(OptionalFunctions):
    """A base for models of blocking runtimes. Subclasses define `run`, `abort`, `destroy` and what else they can do."""

    def run(self, input: RKLLMInput, inferParam: RKLLMInferParam, onResult: OnResult, delivery: Delivery) -> str | None:
        raise NotImplementedError(f"{type(self).__name__} must define run")

    def abort(self) -> None:
        raise NotImplementedError(f"{type(self).__name__} must define abort")

    def destroy(self) -> None:
        raise NotImplementedError(f"{type(self).__name__} must define destroy")

    def prepare(self) -> None:
        """Nothing to forget."""


def _inThreads(runtime: IRuntime) -> IModelBackend:
    from rkllm_twisted.backends.threaded import ThreadedBackend

    backend: IModelBackend = ThreadedBackend(runtime)
    return backend


registerAdapter(_inThreads, IRuntime, IModelBackend)

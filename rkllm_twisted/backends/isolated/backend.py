"""A blocking backend with a child process for each model."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.threads import deferToThreadPool
from zope.interface import implementer

from rkllm_twisted.backends import checkParam, located
from rkllm_twisted.backends.isolated.keeping import KeptChild
from rkllm_twisted.backends.isolated.limits import NOT_KNOWN, Limits
from rkllm_twisted.backends.isolated.model import IsolatedModel
from rkllm_twisted.backends.isolated.process import ChildProcess
from rkllm_twisted.errors import NotSupported
from rkllm_twisted.interfaces import IModel, IModelBackend, IRuntime
from rkllm_twisted.values import RKLLMParam, refuseParam


@implementer(IModelBackend)
class IsolatedBackend:
    """See the module.

    Args:
        runtime: The backend in this process; it is asked for what takes no library.
        description: Of the same backend, as ``--backend`` has it; the child makes its own from it.
        reactor: Spawns children and tells the time.
        limits: For each child.

    Raises:
        ValueError: What the description names is not there.
    """

    def __init__(self, runtime: IRuntime, description: str, reactor: Any, limits: Limits) -> None:
        self.name = runtime.name
        self.capabilities = runtime.capabilities
        self._runtime = runtime
        # Now, since the daemon may go to work in another directory before it starts a child, which follows it there.
        self._description = located(description)
        self._reactor = reactor
        self._limits = limits

    def createDefaultParam(self) -> RKLLMParam:
        """See `IModelBackend`."""
        return self._runtime.createDefaultParam()

    def checkParam(self, param: RKLLMParam) -> Deferred[None]:
        """See `IModelBackend`. Done in this process, in a thread: the child may be busy."""
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), checkParam, self._runtime, param)

    def init(self, param: RKLLMParam) -> Deferred[IModel]:
        """See `IModelBackend`. Starts a child."""
        try:
            refuseParam(param, self.capabilities)
        except NotSupported:
            return fail()
        kept = KeptChild(
            self._reactor, lambda ended: ChildProcess(self._reactor, self._description, ended), self._limits
        )
        length = param.max_context_len or NOT_KNOWN
        return kept.start(param).addCallback(lambda _: IsolatedModel(self._reactor, self.capabilities, kept, length))

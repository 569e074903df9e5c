"""The contract suite: one test for each clause of `rkllm_twisted.interfaces`, for any backend.

To run it over a backend, subclass `BackendContract` in a test module, say how to make the backend, and run pytest with
pytest-twisted::

    class TestEcho(BackendContract):
        def makeBackend(self):
            return EchoBackend()

        def makeParam(self, backend):
            return msgspec.structs.replace(backend.createDefaultParam(), model_path="echo")

Which clauses are tried is for the backend's ``capabilities`` to say: what is in them must work, what is not must be
refused. Some of them need a hook, such as an adapter file for ``load_lora``; see `subject.Subject`.
"""

from __future__ import annotations

from rkllm_twisted.testing.contract.files import Files
from rkllm_twisted.testing.contract.generations import Generations
from rkllm_twisted.testing.contract.histories import Histories
from rkllm_twisted.testing.contract.inputs import Inputs
from rkllm_twisted.testing.contract.prompting import Prompting
from rkllm_twisted.testing.contract.refusals import Refusals
from rkllm_twisted.testing.contract.tensors import Tensors


class BackendContract(Generations, Refusals, Inputs, Tensors, Histories, Prompting, Files):
    """Every clause. Subclasses define `makeBackend` and ``makeParam``, and the hooks of `subject.Subject` where their
    backend's capabilities need them.
    """

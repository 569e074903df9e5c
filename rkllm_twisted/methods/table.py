"""The table of methods, and the way of a call into one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from rkllm_twisted.errors import InternalError, MethodNotFound, NotPermitted, RKLLMError
from rkllm_twisted.methods.decoding import ParamsDecoder
from rkllm_twisted.wire.connection import Call
from rkllm_twisted.wire.messages import encode

Answer = Struct | dict[str, Any]
"""The result of a method, before it is spelled as JSON."""


class NoParams(Struct, frozen=True):
    """The parameters of a method that takes none but the handle."""


class Method:
    """One method of the wire.

    Args:
        name: Its name, such as ``rkllm.init``.
        params: A struct of its parameters, see `ParamsDecoder`.
        carryOut: Called with the call and its parameters. What it returns, or the Deferred it returns fires with, is
            the result; None, if it has written, or will write, the last line of the call itself.
        streams: Whether it answers with a stream.

    Attributes:
        parameters: Decodes the parameters.
        doc: What it does: the docstring of ``carryOut``.
    """

    def __init__(
        self,
        name: str,
        params: type[Struct],
        carryOut: Callable[[Call, Any], Answer | Deferred[Any] | None],
        streams: bool = False,
    ) -> None:
        self.name = name
        self.streams = streams
        self.doc = carryOut.__doc__ or ""
        self.parameters: ParamsDecoder[Any] = ParamsDecoder(params)
        self._carryOut = carryOut

    def __call__(self, call: Call) -> Answer | Deferred[Any] | None:
        """Decode the parameters and carry the call out."""
        params = self.parameters.decode(call.params)
        # Whoever finds a value wrong from here on knows its parameter's name; where it stood is known here.
        call.locate = self.parameters.locate
        return self._carryOut(call, params)


class MethodTable:
    """Finds the method of a call and sees to it that the call ends.

    Args:
        methods: What can be called.
    """

    log = Logger()

    def __init__(self, methods: Iterable[Method]) -> None:
        self.methods = {method.name: method for method in methods}

    def add(self, method: Method) -> None:
        """One more, which needs to know the table."""
        self.methods[method.name] = method

    def dispatch(self, call: Call) -> None:
        """Carry a call out. Never raises; the call gets its last line now or later."""
        try:
            method = self.methods.get(call.method)
            if method is None:
                raise MethodNotFound(call.method)
            if not call.connection.permits(call.method):
                raise NotPermitted(f"{call.method} is not allowed on this socket")
            answer = method(call)
        except Exception:  # noqa: BLE001  # whatever it is, it must not reach the transport
            self._fail(Failure(), call)
            return
        if isinstance(answer, Deferred):
            answer.addCallback(self._finish, call).addErrback(self._fail, call)
        else:
            self._finish(answer, call)

    def _finish(self, answer: Answer | None, call: Call) -> None:
        if answer is not None:
            call.finish(encode(answer))

    def _fail(self, failure: Failure, call: Call) -> None:
        call.fail(wireError(failure, f"{call.method} failed"))


def wireError(failure: Failure, what: str) -> RKLLMError:
    """The error that a client sees of a failure; a defect is logged and shown without details."""
    if isinstance(failure.value, RKLLMError):
        return failure.value
    MethodTable.log.failure(what, failure=failure)
    return InternalError()

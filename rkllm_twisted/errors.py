"""Every failure that a client can see, one class for each row of the wire's code table.

The first line of a class's docstring is the message that goes over the wire, the detail given at the raise is
appended to it. ``data`` becomes ``error.data`` together with ``retryable``.
"""

from __future__ import annotations

from typing import ClassVar


class RKLLMError(Exception):
    """failed

    The base of all errors of this package. Never raised itself.

    Attributes:
        code: The JSON-RPC error code (docs/reference/wire.md, W-CODES).
        retryable: Whether the same request may succeed later with nothing changed by the client.
        detail: What was wrong, where, and what to do; may be empty.
        data: The fields that the row of the code table names, as JSON values.
    """

    code: ClassVar[int] = 0
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str = "", **data: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.data = data

    @property
    def message(self) -> str:
        """The summary of the class, a colon and the detail."""
        summary = (type(self).__doc__ or type(self).__name__).partition("\n")[0]
        return f"{summary}: {self.detail}" if self.detail else summary

    def __str__(self) -> str:
        return self.message


class RemoteError(RKLLMError):
    """error of the server

    What `fromWire` makes of a code that this version does not know. ``code`` is set on the instance.
    """


class ParseError(RKLLMError):
    """parse error"""

    code = -32700


class InvalidRequest(RKLLMError):
    """invalid request"""

    code = -32600


class MethodNotFound(RKLLMError):
    """method not found"""

    code = -32601


class InvalidParams(RKLLMError):
    """invalid params

    The detail names the JSON path of the value and what was expected there.
    """

    code = -32602


class InternalError(RKLLMError):
    """internal error

    A defect of this package; the log has the details, the wire has none.
    """

    code = -32603


class ModelBusy(InternalError):
    """a generation is already running on this model

    Raised by `interfaces.IModel.run`: queueing is the scheduler's business, so a client never sees this.
    """


class ModelNotInitialized(RKLLMError):
    """model not initialized

    The call needs a model and none is loaded; call ``rkllm.init`` first.
    """

    code = -32000


class Busy(RKLLMError):
    """busy

    The queue (data: ``queue_length``) or the connection limit is full.
    """

    code = -32001
    retryable = True


class DeadlinePassed(RKLLMError):
    """deadline passed

    Data: ``waited``, seconds from the arrival of the request.
    """

    code = -32002
    retryable = True


class ShuttingDown(RKLLMError):
    """shutting down"""

    code = -32003
    retryable = True


class RuntimeCallFailed(RKLLMError):
    """runtime call failed

    A function of the runtime returned non-zero. Data: ``function``, ``status``.
    """

    code = -32004

    def __init__(self, detail: str = "", *, function: str, status: int) -> None:
        super().__init__(detail, function=function, status=status)


class ModelLoadFailed(RKLLMError):
    """model load failed

    The file is missing, unreadable, not a model, for another chip, or there is no memory for it. Data: ``reason``,
    which is the detail.
    """

    code = -32005

    def __init__(self, reason: str) -> None:
        super().__init__(reason, reason=reason)


class BackendLost(RKLLMError):
    """backend lost

    The process of the backend died or hung during the call. Data: ``signal``, ``exit_code`` or ``hung``;
    ``restarting``, ``history_lost``.
    """

    code = -32006
    retryable = True


class NotPermitted(RKLLMError):
    """not permitted"""

    code = -32007


class NotSupported(RKLLMError):
    """not supported

    The backend, or this version of its runtime, cannot do it. Data: ``needs``, what would be needed.
    """

    code = -32008

    def __init__(self, detail: str = "", *, needs: str) -> None:
        super().__init__(detail or f"this needs {needs}", needs=needs)


class ResultTooLarge(RKLLMError):
    """result too large

    Data: ``bytes`` and ``limit``.
    """

    code = -32009


class PromptTooLong(RKLLMError):
    """prompt too long

    The templated prompt leaves no room for one token in the context. Data: ``tokens`` and ``limit``, both in tokens.
    """

    code = -32010

    def __init__(self, *, tokens: int, limit: int) -> None:
        super().__init__(
            f"{tokens} tokens, the context holds {limit} and needs room for one more", tokens=tokens, limit=limit
        )


class ReaderTooSlow(RKLLMError):
    """reader too slow

    The client did not read its stream in time.
    """

    code = -32011


class Cancelled(RKLLMError):
    """cancelled

    The request was cancelled or aborted before its first data line.
    """

    code = -32800


BY_CODE: dict[int, type[RKLLMError]] = {kind.code: kind for kind in RKLLMError.__subclasses__() if kind.code}
"""The class of each code of the wire."""


def fromWire(code: int, message: str, data: dict[str, object]) -> RKLLMError:
    """The exception for an ``error`` object that came over the wire.

    Args:
        code: Its ``code``.
        message: Its ``message``.
        data: Its ``data``, or nothing.
    """
    kind = BY_CODE.get(code, RemoteError)
    error = kind.__new__(kind)
    summary = (kind.__doc__ or "").partition("\n")[0]
    RKLLMError.__init__(error, "" if message == summary else message.removeprefix(f"{summary}: "))
    error.data = data  # not as keywords: a server may name one as a parameter is named here
    if kind is RemoteError:
        error.code = code  # type: ignore[misc]  # the class of a code that is not known yet has no code of its own
    return error

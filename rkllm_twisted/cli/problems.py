"""What went wrong, in one line."""

from __future__ import annotations

import os
from errno import EACCES, EPERM

from twisted.internet.defer import CancelledError
from twisted.internet.endpoints import quoteStringArgument
from twisted.internet.error import ConnectError, ConnectingCancelledError
from twisted.internet.error import TimeoutError as ConnectTimeout

from rkllm_twisted.cli.arguments import DEFAULT_SOCKET
from rkllm_twisted.client.addresses import isEndpointString
from rkllm_twisted.errors import ModelNotInitialized, RKLLMError

INTERRUPTED = 130
BROKEN_PIPE = 141
TERMINATED = 143


class UsageError(Exception):
    """The command line cannot be carried out; the message says why. Exit status 2."""


def exitStatus(error: BaseException) -> int | None:
    """The exit status for an exception; None for what is a defect of the command."""
    if isinstance(error, (CancelledError, ConnectingCancelledError, KeyboardInterrupt)):
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE
    if isinstance(error, UsageError):
        return 2
    return 1 if isinstance(error, (RKLLMError, ConnectError, OSError)) else None


def sentence(error: BaseException, command: str = "run") -> str:
    """What an error says, for who typed the command."""
    if isinstance(error, ModelNotInitialized) and command in ("run", "chat"):
        return f"no model is loaded; name one and it will be: rkllm {command} --model smollm2 …"
    if isinstance(error, RKLLMError):
        return f"{error.message} ({error.code})" if error.code else error.message
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)


def unreachable(error: ConnectError, socket: str) -> str:
    """Why the daemon cannot be reached, and how to start one.

    Args:
        error: What connecting failed with.
        socket: The path or endpoint string.
    """
    if error.osError in (EACCES, EPERM):
        return f"{socket} may not be opened: it belongs to another user"
    reason = "timed out" if isinstance(error, ConnectTimeout) else _reason(error)
    return f"no daemon answers at {socket} ({reason}); start one: {_startCommand(socket)}"


def _reason(error: ConnectError) -> str:
    return os.strerror(error.osError).lower() if isinstance(error.osError, int) else str(error)


def _startCommand(socket: str) -> str:
    if socket == DEFAULT_SOCKET:
        return "twistd -n rkllm"
    return f"twistd -n rkllm --listen {socket if isEndpointString(socket) else 'unix:' + quoteStringArgument(socket)}"

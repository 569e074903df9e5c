"""One peer's conversation: which of its requests are open, and that each gets exactly one last line (W-ID, W-LAST)."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Raw, Struct

from rkllm_twisted.errors import InvalidRequest, RKLLMError
from rkllm_twisted.wire.messages import NO_ID, Refused, Request, errorLine, idKey, parse, resultLine


class Peer(Struct, frozen=True):
    """Who is at the other end, as the kernel tells (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


class Call:
    """One request, from its line to its last line.

    After the last line, and for a notification, writing does nothing: whoever carries the request out need not know.
    """

    def __init__(self, connection: Connection, request: Request) -> None:
        self.connection = connection
        self.method = request.method
        self.params = request.params
        self.id = request.id
        self.isEnded = False
        self.cancelled: Callable[[], object] | None = None
        """What to do when nobody wants the answer any more; set by whoever carries the call out."""

    def send(self, result: bytes) -> None:
        """Write a line that is not the last."""
        if not self.isEnded and self.id is not None:
            self.connection.write(resultLine(self.id, result))

    def finish(self, result: bytes) -> None:
        """Write the last line."""
        if not self.isEnded and self.id is not None:
            self.connection.write(resultLine(self.id, result))
        self._end()

    def fail(self, error: RKLLMError) -> None:
        """Write an error as the last line."""
        if not self.isEnded and self.id is not None:
            # What cannot be read at all is answered as if the id could not be read either (JSON-RPC 2.0, section 5.1).
            self.connection.write(errorLine(NO_ID if error.code == -32700 else self.id, error))
        self._end()

    def cancel(self) -> None:
        """Say that the answer is not wanted any more; the last line still comes, as W-CANCEL has it."""
        if not self.isEnded and self.cancelled is not None:
            self.cancelled()

    def _end(self) -> None:
        if not self.isEnded:
            self.isEnded = True
            self.connection.callEnded(self)


class Connection:
    """The state of one peer.

    Args:
        write: Sends bytes to the peer.
        close: Closes the connection once what was written has gone out.
        peer: Who it is; None where the transport cannot tell.
    """

    def __init__(self, write: Callable[[bytes], object], close: Callable[[], object], peer: Peer | None = None) -> None:
        self.write = write
        self.peer = peer
        self._close = close
        self._named: dict[bytes | str, Call] = {}
        self._unnamed: set[Call] = set()
        self._expectsMore = True

    def receive(self, line: bytes) -> Call | None:
        """Take a line.

        Returns:
            The call that it makes; None if it made none, and was answered with an error.
        """
        try:
            return self._open(parse(line))
        except Refused as refused:
            self.write(errorLine(refused.id, refused.error))
            return None

    def _open(self, request: Request) -> Call:
        call = Call(self, request)
        if request.id is None or request.id == NO_ID:
            self._unnamed.add(call)
        elif (key := idKey(request.id)) in self._named:
            raise Refused(InvalidRequest("$.id: a request with this id is in flight", id=Raw(request.id)))
        else:
            self._named[key] = call
        return call

    def find(self, id: bytes) -> Call | None:
        """The open call with this id."""
        return self._named.get(idKey(id))

    def callEnded(self, call: Call) -> None:
        """The call has written its last line."""
        if call.id is None or call.id == NO_ID:
            self._unnamed.discard(call)
        else:
            del self._named[idKey(call.id)]
        self._closeIfDone()

    def finishReading(self) -> None:
        """The peer sends nothing more (W-HALFCLOSE): close when every call has ended."""
        self._expectsMore = False
        self._closeIfDone()

    def lost(self) -> None:
        """The peer is gone (W-GONE): cancel every call, and write nothing more."""
        self.write = _discard
        for call in [*self._named.values(), *self._unnamed]:
            call.cancel()

    def _closeIfDone(self) -> None:
        if not self._expectsMore and not self._named and not self._unnamed:
            self._close()


def _discard(data: bytes) -> None:
    """Nobody is there to read it."""

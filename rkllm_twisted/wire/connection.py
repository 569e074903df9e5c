"""One peer's conversation: its open requests, and that each gets exactly one last line (W-ID, W-BATCH, W-LAST)."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Raw, Struct

from rkllm_twisted.errors import Cancelled, InvalidParams, InvalidRequest, NotPermitted, ParseError, RKLLMError
from rkllm_twisted.wire.framing import documentsOf
from rkllm_twisted.wire.messages import (
    NO_ID,
    Refused,
    Request,
    errorLine,
    idKey,
    parse,
    parseEntry,
    resultLine,
)


class Peer(Struct, frozen=True):
    """Who is at the other end, as the kernel tells (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


class Call:
    """One request, from its line to its last line.

    After the last line, and for a notification, writing does nothing: whoever carries the request out need not know.

    Args:
        connection: Whose it is.
        request: What is asked.
        batch: The batch that it came in, which takes its answer.
    """

    __slots__ = ("_target", "batch", "cancelled", "connection", "id", "isEnded", "key", "locate", "method", "params")

    def __init__(self, connection: Connection, request: Request, batch: Batch | None = None) -> None:
        self.connection = connection
        self.batch = batch
        self._target: Connection | Batch = connection if batch is None else batch
        self.method = request.method
        self.params = request.params
        self.id = request.id
        self.key: bytes | str | None = None if request.id is None or request.id == NO_ID else idKey(request.id)
        """What is the same for every spelling of its id; None if it has none."""
        self.isEnded = False
        self.cancelled: Callable[[], object] | None = None
        """What to do when nobody wants the answer any more; set by whoever carries the call out."""
        self.locate: Callable[[bytes, str], str] | None = None
        """Given the params, turns the detail of an error that names a parameter into one that names its place there."""

    def write(self, lines: bytes) -> None:
        """Write lines that are not the last."""
        if self.id is not None and not self.isEnded:
            self._target.write(lines)

    def finish(self, result: bytes) -> None:
        """Write the last line."""
        if self.id is not None and not self.isEnded:
            self._target.write(resultLine(self.id, result))
        self._end()

    def fail(self, error: RKLLMError) -> None:
        """Write an error as the last line."""
        if self.locate is not None and isinstance(error, InvalidParams | NotPermitted):
            error.detail = self.locate(self.params, error.detail)
        if self.id is not None and not self.isEnded:
            # What cannot be read at all is answered as if the id could not be read either (JSON-RPC 2.0, section 5.1).
            self._target.write(errorLine(NO_ID if error.code == -32700 else self.id, error))
        self._end()

    def cancel(self) -> None:
        """Say that the answer is not wanted any more; the last line still comes, as W-CANCEL has it."""
        if not self.isEnded and self.cancelled is not None:
            self.cancelled()

    def _end(self) -> None:
        if not self.isEnded:
            self.isEnded = True
            if self.batch is not None:
                self.batch.entryEnded()
            self.connection.callEnded(self)


class Batch:
    """The answers of a batch, kept until all have come; then they are one line, or none (W-BATCH).

    Args:
        connection: Whose it is.
        size: How many entries it has.
    """

    def __init__(self, connection: Connection, size: int) -> None:
        self._connection = connection
        self._missing = size
        self._answers: list[bytes] = []

    def write(self, line: bytes) -> None:
        """Keep an answer."""
        self._answers.append(line.removesuffix(b"\n"))

    def entryEnded(self) -> None:
        """One entry has its answer, or needs none."""
        self._missing -= 1
        if not self._missing and self._answers:
            self._connection.write(b"[%b]\n" % b",".join(self._answers))


class Connection:
    """The state of one peer.

    Args:
        write: Sends bytes to the peer.
        close: Closes the connection once what was written has gone out.
        peer: Who it is; None where the transport cannot tell.
        isCongested: Whether more waits for the peer than may (W-SLOW).
        permits: Whether the peer may call a method.
    """

    __slots__ = (
        "__weakref__",
        "_close",
        "_expectsMore",
        "_named",
        "_unnamed",
        "isCongested",
        "peer",
        "permits",
        "write",
    )

    def __init__(
        self,
        write: Callable[[bytes], object],
        close: Callable[[], object],
        peer: Peer | None = None,
        isCongested: Callable[[], bool] = lambda: False,
        permits: Callable[[str], bool] = lambda method: True,
    ) -> None:
        self.write = write
        self.peer = peer
        self.isCongested = isCongested
        self.permits = permits
        self._close = close
        self._named: dict[bytes | str, Call] = {}
        self._unnamed: dict[Call, None] = {}
        self._expectsMore = True

    def receive(self, line: bytes) -> list[Call]:
        """Take a line.

        Returns:
            The calls that it makes. What is no request is answered with an error here.
        """
        try:
            request = parse(line)
        except Refused as refused:
            return self._receiveEach(line, refused)
        if isinstance(request, list):
            return self._receiveBatch(request)
        return self._open(request, None)

    def _receiveEach(self, line: bytes, refused: Refused) -> list[Call]:
        """A line may be several messages without line feeds between them (W-BARE)."""
        messages = [message for message in documentsOf(line) if message] if _isNotJson(refused) else []
        if len(messages) > 1:
            return [call for message in messages for call in self.receive(message)]
        self.write(errorLine(refused.id, refused.error))
        return []

    def _receiveBatch(self, entries: list[bytes]) -> list[Call]:
        batch = Batch(self, len(entries))
        return [call for entry in entries for call in self._receiveEntry(entry, batch)]

    def _receiveEntry(self, entry: bytes, batch: Batch) -> list[Call]:
        try:
            return self._open(parseEntry(entry), batch)
        except Refused as refused:
            batch.write(errorLine(refused.id, refused.error))
            batch.entryEnded()
            return []

    def _open(self, request: Request, batch: Batch | None) -> list[Call]:
        call = Call(self, request, batch)
        if call.key is None:
            self._unnamed[call] = None
        elif call.key not in self._named:
            self._named[call.key] = call
        else:
            # Its id is that of another request, so it is answered as if it had none.
            twice = InvalidRequest("$.id: a request with this id is in flight", id=Raw(request.id or NO_ID))
            (self if batch is None else batch).write(errorLine(NO_ID, twice))
            if batch is not None:
                batch.entryEnded()
            return []
        return [call]

    def isSameUser(self, other: Connection) -> bool:
        """Whether both peers are known to have the same uid."""
        return self.peer is not None and other.peer is not None and self.peer.uid == other.peer.uid

    def find(self, id: bytes) -> Call | None:
        """The open call with this id."""
        return self._named.get(idKey(id))

    def callEnded(self, call: Call) -> None:
        """The call has written its last line."""
        if call.key is None:
            self._unnamed.pop(call, None)
        else:
            del self._named[call.key]
        if not self._expectsMore:
            self._closeIfDone()

    def finishReading(self) -> None:
        """The peer sends nothing more (W-HALFCLOSE): close when every call has ended."""
        self._expectsMore = False
        self._closeIfDone()

    def end(self) -> None:
        """The peer is not served further: every call gets its last line now (W-LAST), nothing is written after it."""
        for call in [*self._named.values(), *self._unnamed]:
            call.cancel()
            call.fail(Cancelled("the connection ends"))
        self.write = _discard

    def lost(self) -> None:
        """The peer is gone (W-GONE): cancel every call, and write nothing more."""
        self.write = _discard
        for call in [*self._named.values(), *self._unnamed]:
            call.cancel()

    def _closeIfDone(self) -> None:
        if not self._expectsMore and not self._named and not self._unnamed:
            self._close()


def _isNotJson(refused: Refused) -> bool:
    return refused.error.code == ParseError.code


def _discard(data: bytes) -> None:
    """Nobody is there to read it."""

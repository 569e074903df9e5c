"""A web service that had other things to do, and now answers questions with a model, too."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import BAD_REQUEST, SERVICE_UNAVAILABLE
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from rkllm_twisted.client import RKLLMClient
from rkllm_twisted.errors import RKLLMError


class Hours(Resource):
    """What the service did before: it says when the desk is open."""

    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        """The hours."""
        return b"Monday to Friday, 9 to 17\n"


class Questions(Resource):
    """``POST /ask``, the question as the body; the answer comes as it is generated.

    Each question has a connection of its own to the daemon's socket, so that whoever hangs up takes back only his own.

    Args:
        reactor: Connects.
        path: The daemon's socket.
    """

    isLeaf = True
    log = Logger()

    def __init__(self, reactor: Any, path: str) -> None:
        super().__init__()
        self._reactor = reactor
        self._path = path

    def render_POST(self, request: Request) -> bytes | int:
        """Answer, and stop when the asker hangs up."""
        try:
            question = request.content.read().decode()
        except UnicodeDecodeError:
            request.setResponseCode(BAD_REQUEST)
            return b"the question is not UTF-8\n"
        request.setHeader("Content-Type", "text/plain; charset=utf-8")
        answering = Deferred.fromCoroutine(self._answer(request, question))
        request.notifyFinish().addErrback(lambda _: answering.cancel())
        answering.addErrback(self._notAnswered, request)
        return NOT_DONE_YET

    async def _answer(self, request: Request, question: str) -> None:
        client = await RKLLMClient.connectTo(self._reactor, self._path)
        try:
            async for result in client.run(question, {"max_new_tokens": 200}):
                request.write((result.text or "").encode())
        finally:
            client.disconnect()
        request.finish()

    def _notAnswered(self, failure: Failure, request: Request) -> None:
        if failure.check(CancelledError):
            return  # the asker is gone
        failure.trap(RKLLMError, ConnectError)
        self.log.warn("not answered: {reason}", reason=failure.getErrorMessage())
        if not request.startedWriting:
            request.setResponseCode(SERVICE_UNAVAILABLE)
        request.write(f"{failure.getErrorMessage()}\n".encode())
        request.finish()


def site(reactor: Any, path: str) -> Resource:
    """The tree of resources.

    Args:
        reactor: Connects to the daemon.
        path: The daemon's socket.
    """
    root = Resource()
    root.putChild(b"hours", Hours())
    root.putChild(b"ask", Questions(reactor, path))
    return root

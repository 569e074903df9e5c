"""A client of the daemon for any Twisted program: Deferreds, and asynchronous iterators for what streams.

As in::

    from twisted.internet.task import react

    from rkllm_twisted.client import RKLLMClient

    async def main(reactor):
        client = await RKLLMClient.connectTo(reactor, "/tmp/rkllm.sock")
        await client.init(model_path="smollm2")
        async for result in client.run("Why is the sky blue?", {"max_new_tokens": 100}):
            print(result.text or "", end="", flush=True)
        await client.disconnect()

    react(main)

Any number of requests may be open at once on one connection. Every error of the server is raised as its own class of
`rkllm_twisted.errors`; a connection that ends fails whatever is open with `ConnectionLost`, which is an
`errors.RKLLMError` too, so that one ``except`` has them all. Everything happens in the reactor's thread.
"""

from __future__ import annotations

from rkllm_twisted.client.addresses import endpointOf
from rkllm_twisted.client.connection import MAX_LINE, ConnectionLost
from rkllm_twisted.client.facade import RKLLMClient
from rkllm_twisted.client.results import (
    Base64Tensor,
    LastHiddenLayer,
    Logits,
    ResultStream,
    StreamResult,
    Tensor,
    decodeStreamResult,
)

__all__ = [
    "MAX_LINE",
    "Base64Tensor",
    "ConnectionLost",
    "LastHiddenLayer",
    "Logits",
    "RKLLMClient",
    "ResultStream",
    "StreamResult",
    "Tensor",
    "decodeStreamResult",
    "endpointOf",
]

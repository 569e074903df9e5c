"""The methods of the wire as methods of Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory

from rkllm_twisted.client.addresses import endpointOf
from rkllm_twisted.client.connection import MAX_LINE, ClientConnection
from rkllm_twisted.client.exchange import Exchange
from rkllm_twisted.client.results import ResultStream, StreamResult, decodeStreamResult
from rkllm_twisted.values import (
    DeliveryOptions,
    InputType,
    RKLLMCrossAttnParam,
    RKLLMInferParam,
    RKLLMInput,
    RKLLMLoraAdapter,
    RKLLMParam,
)

Fields = Mapping[str, object]
"""The fields of a struct under their names on the wire."""
Input = str | RKLLMInput | Fields | Sequence[str | RKLLMInput | Fields]
"""A prompt, or an input of another type; several of them where the model was loaded with ``n_batch`` above 1."""


class RKLLMClient:
    """A connection to the daemon. `connect` makes one.

    Every method returns a Deferred, or a stream that is iterated with ``async for``. The Deferreds fail with the
    class of `rkllm_twisted.errors` for the error that the server answered, or with `ConnectionLost`; with TypeError or
    ValueError if the parameters cannot be written as JSON. Cancelling one cancels the request on the server. All in the
    reactor's thread.

    Structs are given as those of `rkllm_twisted.values` or as dicts of the same fields. A field that is left out or
    None takes the runtime's default, so that a dict says less than a struct, whose fields are all set.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    @classmethod
    def connect(cls, endpoint: IStreamClientEndpoint, maxLine: int = MAX_LINE) -> Deferred[RKLLMClient]:
        """Connect to a daemon.

        Args:
            endpoint: Where it listens.
            maxLine: The longest line accepted from it, in bytes.

        Returns:
            Fires with the client; fails with what the endpoint fails with (``twisted.internet.error.ConnectError``).
        """
        factory = Factory.forProtocol(partial(ClientConnection, maxLine))
        factory.noisy = False
        return endpoint.connect(factory).addCallback(cls)

    @classmethod
    def connectTo(cls, reactor: Any, address: str, maxLine: int = MAX_LINE) -> Deferred[RKLLMClient]:
        """Connect to the daemon at a path or an endpoint string, as `endpointOf` reads it.

        Returns:
            As `connect`.

        Raises:
            ValueError: As `endpointOf`.
        """
        return cls.connect(endpointOf(reactor, address), maxLine)

    def disconnect(self) -> Deferred[None]:
        """Close the connection. The daemon cancels what this client has open; its model stays loaded.

        Returns:
            Fires with None when the connection is closed, at once if it is. Cancelling it (``addTimeout``) closes the
            connection without waiting for a daemon that does not read.
        """
        return self._connection.disconnect()

    def call(self, method: str, params: Sequence[object] | Fields | None = None) -> Deferred[Any]:
        """Call any method of the wire.

        Args:
            method: Its name there, such as ``rkllm.init``.
            params: Its parameters, by position or by name; None for none.

        Returns:
            Fires with the result, decoded from JSON; of a method that streams, with the last one.
        """
        return Deferred.fromCoroutine(self._lastResult(method, params))

    async def _lastResult(self, method: str, params: Sequence[object] | Fields | None) -> Any:
        last = b"null"
        async for result in self.stream(method, params):
            last = result
        return msgspec.json.decode(last)

    def stream(self, method: str, params: Sequence[object] | Fields | None = None) -> ResultStream[bytes]:
        """Call any method of the wire and read each of its results as it comes, as JSON.

        Args:
            method: Its name there.
            params: As for `call`.

        Returns:
            The results, the acknowledgement of ``rkllm.run_async`` among them; one only if the method does not stream.

        Raises:
            TypeError, ValueError: ``params`` cannot be written as JSON.
        """
        return ResultStream(self._connection.request(method, params), bytes)

    def run(
        self,
        input: Input,
        inferParam: RKLLMInferParam | Fields | None = None,
        delivery: DeliveryOptions | Fields | None = None,
    ) -> ResultStream[StreamResult]:
        """Generate: ``async for result in client.run("Why is the sky blue?")``.

        Args:
            input: The prompt, or the fields of an `RKLLMInput`.
            inferParam: How to infer; ``{"keep_history": 1}`` goes on after this connection's earlier turns.
            delivery: W-OPTIONS, such as ``{"tensors": "base64", "deadline": 30}``.

        Returns:
            The results, the finish line as the last one. With the delivery ``whole`` that is the only one.

        Raises:
            TypeError, ValueError: An argument cannot be written as JSON.
        """
        return ResultStream(self._generate("rkllm.run", input, inferParam, delivery), decodeStreamResult)

    def runAsync(
        self,
        input: Input,
        inferParam: RKLLMInferParam | Fields | None = None,
        delivery: DeliveryOptions | Fields | None = None,
    ) -> ResultStream[StreamResult]:
        """Generate with ``rkllm.run_async``. As `run`; its acknowledgement is not among the results."""
        exchange = self._generate("rkllm.run_async", input, inferParam, delivery)
        exchange.dropAcknowledgement()
        return ResultStream(exchange, decodeStreamResult)

    def _generate(self, method: str, input: Input, inferParam: object, delivery: object) -> Exchange:
        return self._connection.request(method, [None, _inputOf(input), inferParam, delivery])

    def init(self, param: RKLLMParam | Fields | None = None, **fields: object) -> Deferred[dict[str, Any]]:
        """Load a model, in place of the one that is loaded.

        Args:
            param: The fields of an `RKLLMParam`.
            fields: More of them, ``model_path="smollm2"``; they win over ``param``.

        Returns:
            Fires with ``success`` and ``message`` when it is loaded. Fails with `errors.ModelLoadFailed`,
            `errors.InvalidParams` or `errors.NotSupported`; a model that was loaded is kept if the new one is refused
            for its parameters.
        """
        if isinstance(param, RKLLMParam):
            param = msgspec.structs.asdict(param)
        return self.call("rkllm.init", [None, {**(param or {}), **fields}])

    def createDefaultParam(self) -> Deferred[dict[str, Any]]:
        """Fires with the parameters that a model is loaded with by default, as a dict of every field."""
        return self.call("rkllm.createDefaultParam")

    def getConstants(self) -> Deferred[dict[str, dict[str, int]]]:
        """Fires with the enums of ``rkllm.h``: ``CPU_MASKS``, ``LLM_CALL_STATES``, ``INPUT_TYPES``, ``INFER_MODES``."""
        return self.call("rkllm.get_constants")

    def isRunning(self) -> Deferred[bool]:
        """Fires with whether a generation runs, of whatever client."""
        return self.call("rkllm.is_running").addCallback(lambda result: bool(result["is_running"]))

    def abort(self) -> Deferred[dict[str, Any]]:
        """End all generations of this connection, or, if it has none, the one that runs (W-ABORT).

        To end one of several, use `ResultStream.abort`.

        Returns:
            Fires with ``success``, ``message`` and ``status_code``; also when nothing runs.
        """
        return self.call("rkllm.abort")

    def destroy(self) -> Deferred[dict[str, Any]]:
        """Unload the model when its turn comes. Fails with `errors.ModelNotInitialized` if none is loaded."""
        return self.call("rkllm.destroy")

    def loadLora(self, adapter: RKLLMLoraAdapter | Fields) -> Deferred[dict[str, Any]]:
        """Load a LoRA adapter."""
        return self.call("rkllm.load_lora", [None, adapter])

    def loadPromptCache(self, path: str) -> Deferred[dict[str, Any]]:
        """Load a prompt cache, a file on the daemon's machine."""
        return self.call("rkllm.load_prompt_cache", [None, path])

    def releasePromptCache(self) -> Deferred[dict[str, Any]]:
        """Let go of the loaded prompt cache."""
        return self.call("rkllm.release_prompt_cache")

    def clearKVCache(
        self, keepSystemPrompt: bool, starts: Sequence[int] | None = None, ends: Sequence[int] | None = None
    ) -> Deferred[dict[str, Any]]:
        """Clear the KV cache, whole or the ranges from each start to its end, in tokens."""
        return self.call("rkllm.clear_kv_cache", [None, keepSystemPrompt, starts, ends])

    def getKVCacheSize(self) -> Deferred[list[int]]:
        """Fires with the tokens in the KV cache, one number for each batch."""
        return self.call("rkllm.get_kv_cache_size").addCallback(lambda result: list(result["cache_sizes"]))

    def setChatTemplate(self, systemPrompt: str, promptPrefix: str, promptPostfix: str) -> Deferred[dict[str, Any]]:
        """Replace the model's chat template."""
        return self.call("rkllm.set_chat_template", [None, systemPrompt, promptPrefix, promptPostfix])

    def setFunctionTools(self, systemPrompt: str, tools: object, toolResponse: str) -> Deferred[dict[str, Any]]:
        """Offer functions to the model; ``tools`` is a JSON text or the value that it stands for."""
        return self.call("rkllm.set_function_tools", [None, systemPrompt, tools, toolResponse])

    def setCrossAttnParams(self, params: RKLLMCrossAttnParam | Fields) -> Deferred[dict[str, Any]]:
        """Set the encoder's output for cross attention."""
        return self.call("rkllm.set_cross_attn_params", [None, params])

    def serverStatus(self) -> Deferred[dict[str, Any]]:
        """Fires with what the daemon tells about itself; fails with `errors.MethodNotFound` on one that cannot."""
        return self.call("server.status")

    def discover(self) -> Deferred[dict[str, Any]]:
        """Fires with the OpenRPC document of the daemon's methods."""
        return self.call("rpc.discover")


def _inputOf(input: Input) -> object:
    if isinstance(input, str):
        return {"input_type": InputType.RKLLM_INPUT_PROMPT, "prompt_input": input}
    if isinstance(input, Sequence):
        return [_inputOf(each) for each in input]
    return input

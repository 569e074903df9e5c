"""Calls that must type-check with mypy --strict for who has installed the package; those marked must not."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from typing_extensions import assert_type

from rkllm_twisted.backends import RuntimeModel, makeBackend
from rkllm_twisted.backends.isolated.backend import IsolatedBackend
from rkllm_twisted.backends.isolated.limits import Limits
from rkllm_twisted.client import RKLLMClient, StreamResult
from rkllm_twisted.errors import Busy, RKLLMError
from rkllm_twisted.interfaces import IModelBackend, IRuntime
from rkllm_twisted.service import RKLLMService
from rkllm_twisted.values import RKLLMInferParam, RKLLMInput, RKLLMParam


async def ask(reactor: Any) -> str:
    client = await RKLLMClient.connectTo(reactor, "/tmp/rkllm.sock")
    assert_type(client, RKLLMClient)
    await client.init(RKLLMParam(model_path="smollm2"))
    await client.init(model_path="smollm2", max_context_len=512)
    texts = []
    async for result in client.run("Why?", {"max_new_tokens": 3}, {"deadline": 30}):
        assert_type(result, StreamResult)
        texts.append(result.text or "")
    stream = client.run(RKLLMInput(prompt_input="Why?"), RKLLMInferParam(keep_history=1))
    stream.abort()
    assert_type(client.getKVCacheSize(), Deferred[list[int]])
    assert_type(await client.isRunning(), bool)
    client.run(5)  # type: ignore[arg-type]  # not an input
    client.loadPromptCache(None)  # type: ignore[arg-type]  # not a path
    return "".join(texts)


def serve(reactor: Any, runtime: IRuntime) -> RKLLMService:
    assert_type(makeBackend("llamacpp:threads=2"), IRuntime | IModelBackend)
    backend = IsolatedBackend(runtime, "llamacpp:threads=2", reactor, Limits(token=5))
    RKLLMService(backend, listen=7, reactor=reactor)  # type: ignore[arg-type]  # not an address
    return RKLLMService(backend, "unix:/tmp/rkllm.sock", reactor, model="smollm2", drain=1.5)


def isWorthAnotherTry(error: RKLLMError) -> bool:
    assert_type(error.retryable, bool)
    return isinstance(error, Busy) or error.code == -32002


class Mine(RuntimeModel):
    def abort(self) -> None:
        self.loadLora("path")  # type: ignore[arg-type]  # not an adapter

"""The contract of all backends, over llama.cpp with a tiny model."""

from __future__ import annotations

import pytest
from msgspec import structs

from rkllm_twisted.backends.llamacpp import makeBackend
from rkllm_twisted.testing.contract import BackendContract


class TestLlamaCpp(BackendContract):
    @pytest.fixture(autouse=True, scope="class")
    def _path(self, request, models):
        request.cls.path = models(style="cycle", contextLength=8192)

    def makeBackend(self):
        return makeBackend({"threads": "1"})

    def makeParam(self, backend):
        return structs.replace(backend.createDefaultParam(), model_path=str(self.path), max_context_len=8192)

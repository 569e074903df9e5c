"""What every backend of rkllm-twisted keeps, for this one."""

import pytest
from echo_backend import EchoRuntime, makeBackend
from msgspec import structs

from rkllm_twisted.testing.contract import BackendContract


class TestEcho(BackendContract):
    def makeBackend(self):
        return EchoRuntime()

    def makeParam(self, backend):
        return structs.replace(backend.createDefaultParam(), model_path="any")


@pytest.mark.parametrize("options", [{"times": "0"}, {"times": "many"}, {"volume": "11"}])
def test_options_that_are_wrong(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        makeBackend(options)

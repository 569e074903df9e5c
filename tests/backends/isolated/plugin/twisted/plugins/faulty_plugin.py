"""The faulty backend, as another package than this one would bring it."""

from rkllm_twisted.backends import BackendMaker

faulty = BackendMaker("faulty", "breaks as it is told", "faulty.runtime.makeBackend")

"""The backends of this package. Another package adds its own with a file like this in its twisted/plugins/."""

from rkllm_twisted.backends import BackendMaker

llamacpp = BackendMaker(
    "llamacpp",
    "llama.cpp on the CPU; options: threads, seed",
    "rkllm_twisted.backends.llamacpp.makeBackend",
    unusable="rkllm_twisted.backends.llamacpp.unusable",
    preference=10,
)
rkllm = BackendMaker(
    "rkllm",
    "the vendor's library on Rockchip's NPU; options: library, abi",
    "rkllm_twisted.backends.rkllm.makeBackend",
    unusable="rkllm_twisted.backends.rkllm.unusable",
    preference=20,
    cures=("library", "abi"),
    locate="rkllm_twisted.backends.rkllm.locate",
)
scripted = BackendMaker(
    "scripted",
    "repeats the prompt, without a model; options: interval",
    "rkllm_twisted.backends.scripted.makeBackend",
)

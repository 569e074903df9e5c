"""Tells twistd of ``twistd rkllm``."""

from twisted.application.service import ServiceMaker

rkllm = ServiceMaker(
    "rkllm-twisted", "rkllm_twisted.tap", "Serve a language model in JSON-RPC 2.0 on a Unix socket.", "rkllm"
)

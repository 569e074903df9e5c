"""A Twisted daemon that gives any language the whole RKLLM runtime through one Unix socket, in JSON-RPC 2.0.

The code reads as this:

    A **line** arrives. The connection reads it into a **request**. The method table finds its **method**. The scheduler
    gives it a **turn**. The backend runs the model. Each **result** is spelled as a **line**. One line is the last.

Where each word lives: line and request in `rkllm_twisted.wire`, method in `rkllm_twisted.methods`, turn in
`rkllm_twisted.scheduling`, backend in `rkllm_twisted.backends`. What they agree on is in `rkllm_twisted.interfaces`,
`rkllm_twisted.values` and `rkllm_twisted.errors`; they meet in `rkllm_twisted.service`.
"""

from rkllm_twisted._version import __version__

__all__ = ["__version__"]

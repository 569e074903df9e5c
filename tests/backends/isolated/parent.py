"""A program with a model in a child process: prints the child's id in the midst of a run, and does as it is told.

    python parent.py PROMPT

A line on its standard input tells: ``exit`` or ``exec``.
"""

import json
import os
import sys

from twisted.internet import reactor

from rkllm_twisted.testing.receivers import RecordingReceiver
from tests.backends.isolated.children import PLUGIN, backendOf, start


def main():
    """See the module."""
    sys.path.append(str(PLUGIN))
    backend = backendOf()
    backend.init(backend.createDefaultParam()).addCallback(run)
    reactor.run()


def run(model):
    """Tell when the run has begun."""
    receiver = RecordingReceiver()
    receiver.firstResult.addCallback(tell)
    start(model, f"!state {sys.argv[1]}", receiver)


def tell(result):
    """Print the child's id, and obey."""
    print(json.loads(result.text)["pid"], flush=True)
    if sys.stdin.readline() == "exec\n":
        os.execv(sys.executable, [sys.executable, "-c", "import sys; sys.stdin.read()"])
    os._exit(0)


if __name__ == "__main__":
    main()

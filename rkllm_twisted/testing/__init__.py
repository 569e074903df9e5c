"""For tests of backends and of programs that use this package; needs the extra ``test``.

`contract.BackendContract` is the contract suite that every backend must pass, `receivers.RecordingReceiver` collects
what a generation produces, `runtimes.ScriptedRuntime` is a blocking runtime that does what a test tells it, and
`peers.Peer` is a peer of the server without a socket.
"""

import pytest

pytest.register_assert_rewrite(f"{__name__}.contract")  # so that a clause that fails says what came instead

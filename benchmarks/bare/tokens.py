"""The least that Python can do for a stream: the library in a thread, its tokens in batches to the reactor, lines.

    python -m benchmarks.bare.tokens PATH LIBRARY MODEL CONTEXT [--each]

The library is called through cffi in ABI mode. A callback appends to a deque and wakes the reactor if nothing has
done that yet; the reactor spells a line for each token that is there, and writes once. With ``--each`` every token
wakes the reactor and is written by itself. Nothing is validated and nobody waits for a turn: one stream at a time.
Prints a line when it listens.
"""

from __future__ import annotations

import sys
from collections import deque
from typing import Any

import msgspec
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineReceiver

from rkllm_twisted.backends.rkllm.families import FAMILIES

FINISH = 2
BEFORE = b'{"jsonrpc":"2.0","id":%d,"result":{"text":'
BEHIND = (
    b',"token_id":%d,"last_hidden_layer":{"hidden_states":null,"embd_size":0,"num_tokens":0},'
    b'"logits":{"logits":null,"vocab_size":0,"num_tokens":0},'
    b'"perf":{"prefill_time_ms":0.0,"prefill_tokens":0,"generate_time_ms":0.0,"generate_tokens":0,'
    b'"memory_usage_mb":0.0},"_callback_state":%d}}\n'
)


class Library:
    """The library, with a model loaded.

    Args:
        path: The library.
        model: The model's file.
        context: The tokens that it may hold.
    """

    def __init__(self, path: str, model: str, context: int) -> None:
        self.ffi: Any = FAMILIES["1.3.1"].ffi
        self._c: Any = self.ffi.dlopen(path)
        self._callback = self.ffi.new("RKLLMCallback *")
        self._kept = self.ffi.callback("LLMResultCallback", self._received, error=0)
        self._callback.result_callback = self._kept
        self._handle = self.ffi.new("LLMHandle *")
        name, param = self.ffi.new("char[]", model.encode()), self._c.rkllm_createDefaultParam()
        param.model_path, param.ignore_eos_token, param.max_context_len = name, True, context
        pointer = self.ffi.new("RKLLMParam *", param)
        if self._c.rkllm_init(self._handle, pointer, self._callback) != 0:
            raise SystemExit("rkllm_init failed")
        self._onToken: Any = None

    def run(self, prompt: str, tokens: int, onToken: Any) -> None:
        """Run to the end, in any thread; ``onToken(text, id, state)`` is called for each token."""
        self._onToken = onToken
        text, role = self.ffi.new("char[]", prompt.encode()), self.ffi.new("char[]", b"user")
        given = self.ffi.new("RKLLMInput *")
        given.role, given.input_type, given.prompt_input = role, 0, text
        infer = self.ffi.new("RKLLMInferParam *")
        infer.max_new_tokens = tokens
        self._c.rkllm_run(self._handle[0], given, infer, self.ffi.NULL)

    def _received(self, results: Any, userdata: Any, state: int) -> int:
        result = results[0]
        text = self.ffi.string(result.text) if state != FINISH and result.text else None
        self._onToken(text, result.token_id, state)
        return 0


class Tokens(LineReceiver):
    """One connection, which gets a stream for each line that it sends."""

    delimiter = b"\n"
    library: Library
    reactor: Any
    transport: Any
    isCoalescing = True

    def connectionMade(self) -> None:
        """Nothing waits yet."""
        self._waiting: deque[tuple[bytes | None, int, int]] = deque()
        self._isPending = False

    def lineReceived(self, line: bytes) -> None:
        """Begin a stream."""
        message = msgspec.json.decode(line)
        self._before = BEFORE % message["id"]
        _, given, infer = message["params"]
        self.reactor.callInThread(self.library.run, given["prompt_input"], infer["max_new_tokens"], self._take)

    def _take(self, text: bytes | None, id: int, state: int) -> None:
        self._waiting.append((text, id, state))
        if not self._isPending:
            self._isPending = self.isCoalescing
            self.reactor.callFromThread(self._write)

    def _write(self) -> None:
        self._isPending = False
        waiting, before, encode = self._waiting, self._before, msgspec.json.encode
        lines = []
        while waiting:
            text, id, state = waiting.popleft()
            lines.append(before + encode(None if text is None else text.decode()) + BEHIND % (id, state))
            if not self.isCoalescing:
                break
        self.transport.write(b"".join(lines))


def main() -> None:
    """Serve until somebody ends the process."""
    from twisted.internet import reactor

    path, library, model, context = sys.argv[1:5]
    Tokens.library, Tokens.reactor = Library(library, model, int(context)), reactor
    Tokens.isCoalescing = "--each" not in sys.argv
    anyReactor: Any = reactor
    anyReactor.listenUNIX(path, Factory.forProtocol(Tokens))
    print("listening", flush=True)
    anyReactor.run()


if __name__ == "__main__":
    main()

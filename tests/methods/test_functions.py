"""Every rkllm method in each of the shapes of its parameters, over a backend that can do everything (W-PARAMS)."""

import pytest
from twisted.internet.defer import fail, succeed
from twisted.internet.task import Clock

from rkllm_twisted.backends.scripted import ScriptedBackend, ScriptedModel
from rkllm_twisted.errors import RuntimeCallFailed
from rkllm_twisted.testing.peers import Server
from rkllm_twisted.values import Capability

INPUT = {"input_type": 0, "prompt_input": "one"}
ADAPTER = {"lora_adapter_path": "/a", "lora_adapter_name": "a", "scale": 2}
CROSS = {
    "encoder_k_cache": [1.0, 2],
    "encoder_v_cache": [3.0, 4],
    "encoder_mask": [1.0],
    "encoder_pos": [0],
    "num_tokens": 1,
}
TOOLS = [{"name": "f", "parameters": {}}]

# Method: parameters by name, in C's order; what the reply has besides success and message; what the model was asked.
FUNCTIONS = {
    "rkllm.load_lora": ({"lora_adapter": ADAPTER}, {}, ("loadLora", "/a", "a", 2.0)),
    "rkllm.load_prompt_cache": ({"prompt_cache_path": "/c"}, {"cache_path": "/c"}, ("loadPromptCache", "/c")),
    "rkllm.release_prompt_cache": ({}, {}, ("releasePromptCache",)),
    "rkllm.clear_kv_cache": (
        {"keep_system_prompt": 1, "start_pos": None, "end_pos": None},
        {"keep_system_prompt": True},
        ("clearKVCache", True, None),
    ),
    "rkllm.get_kv_cache_size": ({}, {"cache_sizes": [0]}, None),
    "rkllm.set_chat_template": (
        {"system_prompt": "s", "prompt_prefix": "<", "prompt_postfix": ">"},
        {"system_prompt": "s", "prompt_prefix": "<", "prompt_postfix": ">"},
        ("setChatTemplate", "s", "<", ">"),
    ),
    "rkllm.set_function_tools": (
        {"system_prompt": "s", "tools": TOOLS, "tool_response_str": "r"},
        {"system_prompt": "s", "tools": TOOLS, "tool_response_str": "r"},
        ("setFunctionTools", "s", '[{"name":"f","parameters":{}}]', "r"),
    ),
    "rkllm.set_cross_attn_params": ({"cross_attn_params": CROSS}, {"num_tokens": 1}, ("setCrossAttnParams", 1)),
    "rkllm.init": ({"param": {"model_path": "any"}, "callback": None}, {}, None),
    "rkllm.destroy": ({}, {}, None),
}
SHAPES = {
    "with the handle": lambda params: [None, *params.values()],
    "without the handle": lambda params: list(params.values()),
    "by name": lambda params: params,
    "by name with the handle": lambda params: {"handle": None, **params},
}


class AbleModel(ScriptedModel):
    """Notes what it is asked for."""

    capabilities = frozenset(Capability)

    def __init__(self, *args):
        super().__init__(*args)
        self.calls = []
        self.outcome = succeed

    def note(self, *call):
        self.calls.append(call)
        return self.outcome(None)

    def loadLora(self, adapter):
        return self.note("loadLora", adapter.lora_adapter_path, adapter.lora_adapter_name, adapter.scale)

    def loadPromptCache(self, path):
        return self.note("loadPromptCache", path)

    def releasePromptCache(self):
        return self.note("releasePromptCache")

    def clearKVCache(self, keepSystemPrompt, ranges):
        return self.note("clearKVCache", keepSystemPrompt, ranges)

    def setChatTemplate(self, *parts):
        return self.note("setChatTemplate", *parts)

    def setFunctionTools(self, *parts):
        return self.note("setFunctionTools", *parts)

    def setCrossAttnParams(self, params):
        return self.note("setCrossAttnParams", params.num_tokens)


class AbleBackend(ScriptedBackend):
    """Gives one of these."""

    def init(self, param):
        self.model = AbleModel(self._clock, self._script, self._interval, -1)
        return succeed(self.model)


@pytest.fixture
def able():
    clock = Clock()
    backend = AbleBackend(clock)
    peer = Server(backend, clock).connect()
    peer.ask("rkllm.init", {"model_path": "any"})
    return peer, backend.model


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", FUNCTIONS)
def test_function(able, method, shape):
    """W-PARAMS: the reply of the table, in every shape."""
    peer, model = able
    params, reply, called = FUNCTIONS[method]
    peer.send({"jsonrpc": "2.0", "id": 7, "method": method, "params": SHAPES[shape](params)})
    [answer] = peer.received()
    result = answer["result"]
    assert result.pop("success") is True
    assert isinstance(result.pop("message"), str)
    assert result == reply
    assert called is None or called in model.calls


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("method", "params", "reply"),
    [
        ("rkllm.abort", {}, {"success": True, "message": "no generation to abort", "status_code": 0}),
        ("rkllm.is_running", {}, {"is_running": False, "status_code": 0}),
        ("rkllm.get_constants", {}, None),
        ("rkllm.createDefaultParam", {}, None),
        ("rkllm.run", {"rkllm_input": INPUT, "rkllm_infer_params": {"mode": 0}, "userdata": None}, None),
        ("rkllm.run_async", {"rkllm_input": INPUT, "rkllm_infer_params": {"mode": 0}, "userdata": {}}, None),
    ],
)
def test_other_methods(able, method, params, reply, shape):
    """W-PARAMS: these have their replies shown elsewhere."""
    peer, _ = able
    peer.send({"jsonrpc": "2.0", "id": 7, "method": method, "params": SHAPES[shape](params)})
    answers = peer.received()
    assert all("result" in answer for answer in answers)
    assert reply is None or answers[0]["result"] == reply


@pytest.mark.parametrize("method", FUNCTIONS)
def test_function_without_a_model(method):
    """W-STATE."""
    clock = Clock()
    peer = Server(ScriptedBackend(clock), clock).connect()
    if method != "rkllm.init":
        [answer] = peer.ask(method, *FUNCTIONS[method][0].values())
        assert answer["error"]["code"] == -32000


@pytest.mark.parametrize("method", [method for method, (_, _, called) in FUNCTIONS.items() if called])
def test_function_that_fails(able, method):
    """W-CODES: -32004."""
    peer, model = able
    model.outcome = lambda _: fail(RuntimeCallFailed(function="rkllm_something", status=-1))
    [answer] = peer.ask(method, *FUNCTIONS[method][0].values())
    assert answer["error"]["code"] == -32004
    assert answer["error"]["data"] == {"retryable": False, "function": "rkllm_something", "status": -1}


def test_tools_as_text(able):
    """W-PARAMS: tools may be a JSON text."""
    peer, model = able
    [answer] = peer.ask("rkllm.set_function_tools", "s", "[1]", "r")
    assert answer["result"]["tools"] == "[1]"
    assert model.calls == [("setFunctionTools", "s", "[1]", "r")]


def test_template_and_tools_together(able):
    """W-TOOLS: until the next model is loaded."""
    peer, _ = able
    template, tools = ("rkllm.set_chat_template", "", "", ""), ("rkllm.set_function_tools", "", "[]", "")
    assert [peer.ask(*template)[0]["result"]["message"], peer.ask(*tools)[0]["result"]["message"]] == [
        "chat template set",
        "function tools set, but with a chat template of one's own the runtime does not inject the tools",
    ]
    peer.ask("rkllm.init", {"model_path": "any"})
    assert peer.ask(*tools)[0]["result"]["message"] == "function tools set"


def test_run_of_another_user_never_finds_a_prefix(able):
    """W-HISTORY: what is left in the cache of a single turn is shared between peers of the same uid only."""
    clock = Clock()
    backend = AbleBackend(clock)
    server = Server(backend, clock)
    peers = [server.connect(uid=1), server.connect(uid=1), server.connect(uid=2)]
    peers[0].ask("rkllm.init", {"model_path": "any"})
    for peer in (peers[0], peers[0], peers[1]):
        peer.ask("rkllm.run", INPUT)
    assert backend.model.calls == []
    peers[2].ask("rkllm.run", INPUT)
    assert backend.model.calls == [("clearKVCache", False, None)]

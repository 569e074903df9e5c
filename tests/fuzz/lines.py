"""What the fuzzer sends: requests of every method as they should be, and then not quite as they should be."""

from __future__ import annotations

from random import Random
from typing import Any

from tests.fuzz.reading import expectedOf
from tests.fuzz.spelling import CHOICES, HUGE, STRINGS, Pairs, Spelled, spell

HUGE_SHARE = 1 / 8000
"""How many of the lines have something very large in them."""

PARAM = {
    "model_path": "any",
    "max_context_len": 512,
    "max_new_tokens": 3,
    "top_k": 1,
    "top_p": 0.5,
    "temperature": 0,
    "repeat_penalty": 1.1,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "mirostat": 0,
    "mirostat_tau": 5.0,
    "mirostat_eta": 0.1,
    "n_keep": -1,
    "skip_special_token": True,
    "ignore_eos_token": 0,
    "is_async": True,
    "img_start": "",
    "img_end": "",
    "img_content": "",
    "extend_param": {"base_domain_id": 0, "n_batch": 1, "enabled_cpus_mask": 240, "enabled_cpus_num": 4},
}
MANY = {"model_path": "any", "extend_param": {"n_batch": 2}}
INPUTS = [
    {"input_type": 0, "prompt_input": ""},
    *[{"input_type": 0, "prompt_input": "one"}] * 4,
    *[{"prompt_input": "one two three"}] * 4,
    *[{"prompt_input": "word " * 20}] * 2,
    {"input_type": 0, "prompt_input": "wörter 🦊 und\nmehr", "role": "user", "enable_thinking": False},
    {"input_type": 1, "token_input": {"input_ids": [1, 2, 3], "n_tokens": 3}},
    {"input_type": 2, "embed_input": {"embed": [0.1, 0.2], "n_tokens": 1}},
    {"input_type": 3, "multimodal_input": {"prompt": "<image>?", "image_embed": [0.5], "n_image_tokens": 1}},
    {"input_type": 3, "multimodal_input": {"prompt": "?", "image": {"image_embed": [], "n_image": 0}}},
    [{"prompt_input": "one"}],
    [{"prompt_input": "one"}, {"prompt_input": "two"}],
]
INFERS = [
    *[None] * 6,
    {},
    *[{"mode": 0}] * 4,
    {"mode": 1},
    {"mode": 2},
    {"max_new_tokens": 2},
    {"mode": 0, "keep_history": 1},
    {"keep_history": True, "max_new_tokens": 1},
    {"sampling_params": {"top_k": 1, "temperature": 0.1}},
    {"lora_params": {"lora_adapter_name": "a"}},
    {"prompt_cache_params": {"save_prompt_cache": 1, "prompt_cache_path": "/nowhere/cache"}},
]
DELIVERIES = [
    *[None] * 6,
    {},
    {"stream": "lines"},
    {"stream": "progress"},
    {"stream": "progress", "tensors": "base64"},
    {"stream": "whole"},
    {"stream": "whole", "rows": "last"},
    {"deadline": 0.05},
    {"deadline": 0},
    {"deadline": 1e9, "stream": "progress"},
    {"deadline": 2, "stream": "whole"},
]
RUN = [("rkllm_input", INPUTS), ("rkllm_infer_params", INFERS), ("userdata", DELIVERIES)]
TEXTS = ["", "be brief", "<|user|>", "🦊"]
CROSS = {"encoder_k_cache": [0.1], "encoder_v_cache": [0.2], "encoder_mask": [1.0], "encoder_pos": [0], "num_tokens": 1}

METHODS: dict[str, list[tuple[str, list[Any]]]] = {
    "rkllm.createDefaultParam": [],
    "rkllm.get_constants": [],
    "rkllm.init": [
        ("param", [PARAM, *[{"model_path": "any"}] * 4, {"model_path": ""}, MANY]),
        ("callback", [None]),
    ],
    "rkllm.run": RUN,
    "rkllm.run_async": RUN,
    "rkllm.abort": [],
    "rkllm.is_running": [],
    "rkllm.destroy": [],
    "rkllm.load_lora": [("lora_adapter", [{"lora_adapter_path": "/l", "lora_adapter_name": "a", "scale": 1}])],
    "rkllm.load_prompt_cache": [("prompt_cache_path", ["/nowhere/cache", ""])],
    "rkllm.release_prompt_cache": [],
    "rkllm.clear_kv_cache": [
        ("keep_system_prompt", [0, 1, True]),
        ("start_pos", [None, [0], [0, 1]]),
        ("end_pos", [None, [1], [-1]]),
    ],
    "rkllm.get_kv_cache_size": [],
    "rkllm.set_chat_template": [("system_prompt", TEXTS), ("prompt_prefix", TEXTS), ("prompt_postfix", TEXTS)],
    "rkllm.set_function_tools": [
        ("system_prompt", TEXTS),
        ("tools", ["[]", [], [{"type": "function", "function": {"name": "f"}}], {}]),
        ("tool_response_str", TEXTS),
    ],
    "rkllm.set_cross_attn_params": [("cross_attn_params", [CROSS])],
    "rpc.discover": [],
    "server.status": [],
    "$/cancelRequest": [("id", [])],
}
"""Every method with its parameters after the handle, and good values of each."""

RUNS = ["rkllm.run", "rkllm.run_async"]
NAMES = [*METHODS, *RUNS * 5, *["rkllm.init"] * 4, "rkllm.abort", "$/cancelRequest", "$/cancelRequest"]
WRONG_NAMES = [
    "",
    "rkllm",
    "rkllm.",
    "rkllm.nope",
    "RKLLM.RUN",
    "run",
    "rpc.x",
    "$/progress",
    "__init__",
    "rkllm.run\0",
]
GARBAGE = [
    *[b"", b" ", b"\r", b"\0", b"\0" * 50, b"x", b"{", b"}", b"[", b"]", b"{}", b"[]", b"[[]]", b"[{}]", b"null", b"1"],
    *[b'"a"', b"true", b"NaN", b"{{}}", b"[1,2,3]", b"[1,]", b'{"a"}', b'{"a":}', b"\xef\xbb\xbf{}", b"\xff\xfe{\0}\0"],
    *[b"GET / HTTP/1.1\r", b"{}{}", b"{}[]{}x", b"]" * 100, b"}{" * 100, b"{}" * 100, b"[" * 5000, b'{"a":' * 5000],
    *[b"[" + b"0," * 63 + b"0]", b"[" + b"0," * 64 + b"0]", b"\xf0\x9f", b"// a comment", b"{'a':1}"],
]


class LineMaker:
    """Makes the lines of one episode.

    Args:
        random: Decides everything.
        place: Makes the ids of this episode differ from those of others.
    """

    def __init__(self, random: Random, place: int) -> None:
        self._random = random
        self._number = place * 100_000
        self._recent: list[Any] = []

    def wildLine(self) -> bytes:
        """One line, or what might have been one, with its line feed or without."""
        random = self._random
        body = self._body()
        kind = random.random()
        if kind < 0.3:
            body = self._mutatedBytes(body)
        if kind < 0.35:
            body += self._body()
        return body + random.choice([b"\n"] * 20 + [b"\r\n", b" \n\n", b"", b"\n\r\n", b" \t \n"])

    def tidyLine(self) -> bytes:
        """One line that leaves no doubt about the answer."""
        while True:
            line = self._body() + self._random.choice([b"\n"] * 20 + [b"\r\n", b" \t\n\n"])
            if not expectedOf(line).unclear:
                return line

    def _body(self) -> bytes:
        kind = self._random.random()
        if kind < 0.04:
            return self._random.choice(GARBAGE)
        return self._batch() if kind < 0.1 else spell(self._request())

    def _batch(self) -> bytes:
        size = self._random.choice([1, 1, 2, 2, 3, 4, 8, 64, 65]) if self._random.random() < 0.3 else 2
        return spell([self._request() if self._random.random() < 0.9 else self._absurd() for _ in range(size)])

    def _request(self) -> Any:
        random = self._random
        name = random.choice(NAMES) if random.random() < 0.97 else random.choice(WRONG_NAMES)
        request: dict[Any, Any] = {"jsonrpc": "2.0", "id": self._id(), "method": name}
        request["params"] = self._params(METHODS.get(name, []))
        if random.random() < 0.08:
            del request["id"]
        if random.random() < 0.1:
            del request["params"]
        return request if random.random() < 0.6 else self._mutated(request)

    def _params(self, parameters: list[tuple[str, list[Any]]]) -> Any:
        random = self._random
        given = [(name, random.choice(good) if good else self._recentId()) for name, good in parameters]
        while given and random.random() < 0.2 and len(given) > 1:
            given.pop()  # trailing ones may be left out
        shape = random.random()
        if shape < 0.3:
            return {**dict(given), **({"handle": None} if random.random() < 0.2 else {})}
        return [*([None] if shape < 0.7 else []), *(value for _, value in given)]

    def _id(self) -> Any:
        random = self._random
        if random.random() < 0.02 and self._recent:
            return self._recentId()
        self._number += 1
        number = self._number
        if random.random() < 0.7:
            id: Any = number
        else:
            forms = [f"s{number}", number + 0.5, -number, f"é🦊\n{number}", Spelled(b'"\\u0061%d"' % number)]
            forms += [Spelled(b"%de0" % number), Spelled(b"%d.0" % number), Spelled(b"%d" % number * 40)]
            forms += [None, None, None, self._absurd()]
            id = random.choice(forms)
        self._recent = [*self._recent[-5:], id]
        return id

    def _recentId(self) -> Any:
        return self._random.choice(self._recent) if self._recent else 0

    def _absurd(self) -> Any:
        if self._random.random() < HUGE_SHARE * 2:
            return self._random.choice(HUGE)
        value = self._random.choice(self._random.choice(CHOICES))
        return self._random.choice(STRINGS) if len(str(value)) > 3000 and self._random.random() < 0.8 else value

    def _mutated(self, request: dict[Any, Any]) -> Any:
        """A copy with one or a few of its values, names or members changed."""
        for _ in range(self._random.choice([1, 1, 1, 2, 4])):
            changed = self._changed(request)
            if not isinstance(changed, dict):
                return changed
            request = changed
        return request

    def _changed(self, value: Any) -> Any:
        """A copy with a change somewhere in it; the deeper a place, the rarer."""
        random = self._random
        if isinstance(value, dict) and value and random.random() < 0.93:
            name = "params" if "params" in value and random.random() < 0.6 else random.choice(list(value))
            if random.random() < 0.75:
                return {**value, name: self._changed(value[name])}
            return self._changedMembers(value, name)
        if isinstance(value, list) and value and not isinstance(value, Pairs) and random.random() < 0.9:
            return self._changedElements(value)
        return self._absurd()

    def _changedMembers(self, value: dict[Any, Any], name: Any) -> Any:
        random = self._random
        rest = {other: member for other, member in value.items() if other is not name}
        way = random.randrange(4)
        if way == 0:
            return rest
        if way == 1:
            return {**value, random.choice([*STRINGS[:12], "reserved", "handle", "id", "params"]): self._absurd()}
        if way == 2:
            return {**rest, f"{name}s": value[name]}
        return Pairs([*value.items(), (name, self._absurd())])

    def _changedElements(self, value: list[Any]) -> list[Any]:
        random = self._random
        place, way = random.randrange(len(value)), random.randrange(8)
        if way == 0:
            return value[:place] + value[place + 1 :]
        if way == 1:
            return [*value[:place], self._absurd(), *value[place:]]
        if way == 2:
            return value * 2
        return [*value[:place], self._changed(value[place]), *value[place + 1 :]]

    def _mutatedBytes(self, body: bytes) -> bytes:
        for _ in range(self._random.choice([1, 1, 2, 5])):
            body = self._changedBytes(body)
        return body

    def _changedBytes(self, body: bytes) -> bytes:
        random = self._random
        place = random.randrange(len(body) + 1)
        end = place + random.choice([0, 1, 1, 2, 8, 100])
        inserted = random.choice([b"", b"\0", b"\xff", b"\xed\xa0\x80", b"\xc3", b"\n", b"\r", b" ", b'"', b"\\", b"{"])
        way = random.randrange(7)
        if way == 0:
            return body[:place]
        if way == 1:
            return body[place:]
        if way == 2:
            return body[:end] + body[place:]
        if way == 3:
            return body[:place] + random.randbytes(random.choice([1, 1, 4, 30])) + body[end:]
        if way == 4:
            return body[:place] + random.choice([b",", b":", b"}", b"]", b"[", b"null", b"1e400"]) + body[place:]
        return body[:place] + inserted + body[end:]

"""Params in which every kind of value occurs, and the places in them, for tests that put something else there."""

import copy
from typing import Any

EVERYTHING = {
    "rkllm.init": {
        "param": {
            "model_path": "a",
            "max_context_len": 4096,
            "top_k": 1,
            "top_p": 0.5,
            "frequency_penalty": 2,
            "is_async": True,
            "img_start": "<",
            "extend_param": {"n_batch": 1, "embed_flash": 0, "enabled_cpus_num": 4, "reserved": None},
        },
    },
    "rkllm.run": {
        "handle": None,
        "rkllm_input": {
            "input_type": 3,
            "role": "user",
            "enable_thinking": 0,
            "prompt_input": None,
            "embed_input": {"embed": [0.5, 1], "n_tokens": 1},
            "token_input": {"input_ids": [1], "n_tokens": 1},
            "multimodal_input": {"prompt": "", "image": {"n_image": 0}, "video": None, "audio": {"n_audio": 0}},
        },
        "rkllm_infer_params": {
            "mode": 0,
            "lora_params": {"lora_adapter_name": "a"},
            "prompt_cache_params": {"save_prompt_cache": 1, "prompt_cache_path": "a"},
            "sampling_params": {"mirostat": 0, "temperature": 0},
            "max_new_tokens": -5,
        },
        "userdata": {"stream": "lines", "rows": None, "deadline": 0.5},
    },
    "rkllm.run_async": {"rkllm_input": [{"prompt_input": "a"}, {"prompt_input": "b"}]},
    "rkllm.load_lora": {"lora_adapter": {"lora_adapter_path": "a", "lora_adapter_name": "b", "scale": 1}},
    "rkllm.load_prompt_cache": {"prompt_cache_path": "a"},
    "rkllm.clear_kv_cache": {"keep_system_prompt": 1, "start_pos": [0], "end_pos": [1]},
    "rkllm.set_chat_template": {"system_prompt": "a", "prompt_prefix": "", "prompt_postfix": None},
    "rkllm.set_function_tools": {"system_prompt": "a", "tools": [{"name": "b"}], "tool_response_str": ""},
    "rkllm.set_cross_attn_params": {
        "cross_attn_params": {
            "encoder_k_cache": [0.5],
            "encoder_v_cache": [1],
            "encoder_mask": [1],
            "encoder_pos": [0],
            "num_tokens": 1,
        }
    },
    "$/cancelRequest": {"id": 1},
    "server.status": {},
}


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value, and of one more in every object."""
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    here = [*([(*path, "one_more")] if isinstance(node, dict) else []), *([path] if path else [])]
    return [*here, *(place for key, value in inside for place in places(value, (*path, key)))]


PLACES = [(method, place) for method, params in EVERYTHING.items() for place in places(params)]


def replaced(method: str, place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """The params of a method with one value in the place of another."""
    params: Any = copy.deepcopy(EVERYTHING[method])
    node = params
    for step in place[:-1]:
        node = node[step]
    node[place[-1]] = value
    return params

"""Small but complete Llama models, and LoRA adapters for them, as GGUF files: for tests that want llama.cpp itself.

A model takes 200 kB, a fraction of a second to write and a millisecond to load. The same arguments give the same bytes.
There are two styles of weights:

``random``
    Weights from a seeded normal distribution. Every logit depends on all that came before, so a mistake in the KV
    cache, in positions or in an adapter changes the text. The text is noise, and often cuts a character in two.

``cycle``
    The layers add nothing and the output matrix maps each token to its successor: greedy text runs through the bytes of
    ``ring`` over and over, whatever the prompt was, as long as it ends on a newline (as the chat template does).
    ``eosAfter`` names a byte after which the end token comes. The adapter of this style runs the ring backwards at
    scale 1. Tests can compare whole strings.

The tokenizer is a byte-level BPE with all 256 bytes, so that any text can be written in it; a byte of the ring is one
token. The chat template is ChatML with tools, the role ``tool`` and ``enable_thinking``.

From a shell: ``python tests/tiny_model.py DIRECTORY --style cycle --eos-after m``. Needs the package ``gguf``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np

CONTEXT = 2048
WIDTH, LAYERS, HEADS, KV_HEADS, FEED_FORWARD, RANK = 64, 2, 4, 2, 96, 4
RING = "abcdefghijklmnopqrstuvwxyz. "
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_response>", "</tool_response>"]
END_OF_TEXT, TURN_START, TURN_END = 0, 1, 2
MERGES = ["Ġ t", "h e", "Ġt he", "i n", "Ġ a", "r e"]

CHAT_TEMPLATE = """\
{%- if tools %}
<|im_start|>system
{{ (messages[0].content + '\\n') if messages[0].role == 'system' }}<tools>
{%- for tool in tools %}
{{ '\\n' + tool | tojson }}
{%- endfor %}
{{ '\\n' }}</tools><|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>' + message.content + '</tool_response><|im_end|>\\n' }}
{%- elif not (tools and loop.first and message.role == 'system') %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}
{{- '<think>\\n\\n</think>\\n\\n' }}
{%- endif %}
{%- endif %}"""

Weights = dict[str, "np.ndarray"]


def byteNames() -> list[str]:
    """How GPT-2's byte-level BPE spells each of the 256 bytes: itself where printable, else a character from 256 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    names, spare = [], iter(range(256, 512))
    for byte in range(256):
        names.append(chr(byte if byte in printable else next(spare)))
    return names


def vocabulary() -> list[str]:
    """Every token: the special ones, the bytes, the merges."""
    return [*SPECIAL, *byteNames(), *(merge.replace(" ", "") for merge in MERGES)]


def tokenOf(byte: int) -> int:
    """The id of the token of a byte."""
    return len(SPECIAL) + byte


def shapes(tokens: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a model and their shapes in numpy's order."""
    keys = WIDTH // HEADS * KV_HEADS
    layer = {
        "attn_norm": (WIDTH,),
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (keys, WIDTH),
        "attn_v": (keys, WIDTH),
        "attn_output": (WIDTH, WIDTH),
        "ffn_norm": (WIDTH,),
        "ffn_gate": (FEED_FORWARD, WIDTH),
        "ffn_up": (FEED_FORWARD, WIDTH),
        "ffn_down": (WIDTH, FEED_FORWARD),
    }
    blocks = {f"blk.{n}.{name}.weight": shape for n in range(LAYERS) for name, shape in layer.items()}
    outer = {"token_embd.weight": (tokens, WIDTH), "output_norm.weight": (WIDTH,), "output.weight": (tokens, WIDTH)}
    return {**outer, **blocks}


def randomWeights(seed: int) -> Weights:
    """Noise, with the special tokens out of reach, so that a text does not end where nobody asked for it."""
    rng = np.random.default_rng(seed)
    weights: Weights = {}
    for name, shape in shapes(len(vocabulary())).items():
        if len(shape) == 1:
            weights[name] = np.ones(shape, np.float32)
        else:
            spread = 1.0 if name == "token_embd.weight" else 2.0 / shape[1] ** 0.5
            weights[name] = (rng.standard_normal(shape) * spread).astype(np.float16)
    weights["output.weight"][: len(SPECIAL)] *= np.float16(0.02)
    return weights


def successors(ring: str, eosAfter: str | None) -> dict[int, int]:
    """Which token follows which; what is not named follows itself."""
    places = [tokenOf(byte) for byte in dict.fromkeys(ring.encode())]  # of a byte that comes twice the first counts
    following = dict(zip(places, places[1:] + places[:1], strict=True))
    following.setdefault(tokenOf(ord("\n")), places[0])
    if eosAfter is not None:
        following[tokenOf(eosAfter.encode()[-1])] = TURN_END
    return following


def cycleWeights(seed: int, following: Mapping[int, int]) -> Weights:
    """Layers of zeros between unit embeddings and an output matrix whose row n is what comes before token n."""
    tokens = len(vocabulary())
    weights = {
        name: np.ones(shape, np.float32) if len(shape) == 1 else np.zeros(shape, np.float16)
        for name, shape in shapes(tokens).items()
    }
    embedding = np.random.default_rng(seed).standard_normal((tokens, WIDTH))
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    output = np.zeros((tokens, WIDTH))
    for token in range(tokens):
        output[following.get(token, token)] += embedding[token]
    best = (embedding @ output.T).argmax(axis=1)
    if wrong := [token for token, successor in following.items() if best[token] != successor]:
        raise ValueError(f"the embeddings of seed {seed} collide on tokens {wrong}")
    weights["token_embd.weight"] = embedding.astype(np.float16)
    weights["output.weight"] = output.astype(np.float16)
    return weights


def writeModel(
    path: Path,
    *,
    style: str = "random",
    seed: int = 0,
    ring: str = RING,
    eosAfter: str | None = None,
    contextLength: int = CONTEXT,
    chatTemplate: str | None = CHAT_TEMPLATE,
    addBegin: bool = False,
    layers: int = LAYERS,
    alterTokens: Callable[[list[str]], None] = lambda tokens: None,
    alterWeights: Callable[[Weights], None] = lambda weights: None,
) -> Path:
    """Write a model.

    Args:
        path: The file to write; its directory exists.
        style: ``random`` or ``cycle``.
        seed: Which weights of the style.
        ring: The text of the style ``cycle``; each byte counts where it comes first.
        eosAfter: In the style ``cycle``, the character after which the end token comes.
        contextLength: The limit that the model states.
        chatTemplate: Its chat template; None writes none.
        layers: How many layers it says that it has; those it has are always the same.
        addBegin: Whether it asks for a begin token (``<|im_start|>``) before every text.
        alterTokens: May spoil the vocabulary.
        alterWeights: May spoil the weights.

    Returns:
        ``path``.
    """
    tokens = vocabulary()
    weights = randomWeights(seed) if style == "random" else cycleWeights(seed, successors(ring, eosAfter))
    alterTokens(tokens)
    alterWeights(weights)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(f"tiny {style} model")
    _addArchitecture(writer, contextLength, layers, len(tokens))
    _addTokenizer(writer, tokens, addBegin)
    if chatTemplate is not None:
        writer.add_chat_template(chatTemplate)
    return writeFile(writer, weights, path)


def _addArchitecture(writer: gguf.GGUFWriter, contextLength: int, layers: int, tokens: int) -> None:
    writer.add_context_length(contextLength)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(tokens)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)


def _addTokenizer(writer: gguf.GGUFWriter, tokens: list[str], addBegin: bool) -> None:
    kinds = [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.USER_DEFINED] * 2
    kinds += [gguf.TokenType.NORMAL] * (len(tokens) - len(kinds))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([int(kind) for kind in kinds])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(TURN_START)
    writer.add_eos_token_id(TURN_END)
    writer.add_pad_token_id(END_OF_TEXT)
    writer.add_add_bos_token(addBegin)


def writeAdapter(path: Path, *, style: str = "random", seed: int = 0, ring: str = RING, arch: str = "llama") -> Path:
    """Write a LoRA adapter for the model that `writeModel` makes of the same arguments.

    Args:
        path: The file to write.
        style: ``random`` changes every logit; ``cycle`` runs the ring backwards at scale 1.
        seed: The seed of the model.
        ring: The ring of the model.
        arch: The architecture that it says it is for.

    Returns:
        ``path``.
    """
    pairs = _noise(seed) if style == "random" else _backwards(seed, ring)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name(f"tiny {style} adapter")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    rank = len(next(iter(pairs.values()))[0])
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(rank))  # scale 1 is B @ A as is
    weights = {}
    for name, (down, up) in pairs.items():
        weights[f"{name}.lora_a"], weights[f"{name}.lora_b"] = down.astype(np.float32), up.astype(np.float32)
    return writeFile(writer, weights, path)


def _noise(seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed + 1)
    names = [f"blk.{n}.{part}.weight" for n in range(LAYERS) for part in ("attn_q", "attn_v", "ffn_down")]
    every = shapes(1)
    return {
        name: (rng.normal(0, 0.3, (RANK, every[name][1])), rng.normal(0, 0.3, (every[name][0], RANK))) for name in names
    }


def _backwards(seed: int, ring: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    following = successors(ring, None)
    places = [tokenOf(byte) for byte in dict.fromkeys(ring.encode())]
    preceding = {following[token]: token for token in places}
    down = cycleWeights(seed, following)["token_embd.weight"][places]
    up = np.zeros((len(vocabulary()), len(places)))
    for column, token in enumerate(places):
        up[following[token], column] -= 1
        up[preceding[token], column] += 1
    return {"output.weight": (down, up)}


def writeFile(writer: gguf.GGUFWriter, weights: Weights, path: Path) -> Path:
    """The file of a writer that has the values already, with these tensors."""
    for name, data in weights.items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def main() -> None:
    """Write ``tiny.gguf`` and ``tiny-lora.gguf``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--style", choices=("random", "cycle"), default="random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ring", default=RING)
    parser.add_argument("--eos-after", metavar="C")
    given = parser.parse_args()
    given.directory.mkdir(parents=True, exist_ok=True)
    common = {"style": given.style, "seed": given.seed, "ring": given.ring}
    for path in (
        writeModel(given.directory / "tiny.gguf", eosAfter=given.eos_after, **common),
        writeAdapter(given.directory / "tiny-lora.gguf", **common),
    ):
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()

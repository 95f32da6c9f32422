"""What lies behind the headers of a checkpoint: tensors and tokenizer fit its configuration.

Only headers and JSON are read. Qwen2.5-VL, the architecture that is trained, is known by its tensors; of
others the headers alone are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

Shape = tuple[int, ...]
Header = Mapping[str, Any]  # of a safetensors file: name -> dtype, shape, data_offsets

KNOWN = "qwen2_5_vl"
# Bits of a number, by safetensors' names of types.
BITS = {
    **{"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "C64": 64},
    **{"I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8},
    **{"BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4},
}
TRAINED = ("F64", "F32", "F16", "BF16")
_OUTER = ("model", "language_model")  # in the names of some versions of transformers


def header_fault(header: Header) -> str | None:
    """What a tensor of a file says that can't be, in words; None if every one can be.

    Raises:
        ValueError: it is no header. So may KeyError, TypeError and AttributeError.
    """
    for name, tensor in tensors(header):
        kind, shape, (start, end) = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
        if kind not in BITS:
            return f"{name} has the type {kind!r}, which is none"
        if any(type(side) is not int or side < 0 for side in shape) or start < 0:
            raise ValueError(shape)
        if prod(shape) * BITS[kind] != 8 * (end - start):
            return f"{name} has {end - start} bytes, which are no {kind} of the shape {shape}"
    return None


def weights_fault(config: Mapping[str, Any], headers: Header) -> str | None:
    """How the tensors of all files differ from what `config.json` tells of, in words; None if not.

    Raises:
        KeyError: the configuration lacks a field. So may TypeError and AttributeError, for a wrong one.
    """
    if config.get("model_type") != KNOWN or config.get("quantization_config"):
        return None
    found = {_inner_name(name): tensor for name, tensor in headers.items()}
    for name, shape in qwen_tensors(config):
        if name not in found:
            return f"the weight {name} is not there"
        if (got := tuple(found[name]["shape"])) != shape:
            return f"{name} has the shape {list(got)}, config.json tells of {list(shape)}"
        if (kind := found[name]["dtype"]) not in TRAINED:
            return f"{name} has the type {kind}, which is not trained"
    return None


def tokenizer_fault(config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> str | None:
    """Why a `tokenizer.json` is not that of the model, in words; None if it may be.

    Raises:
        KeyError: the configuration or the tokenizer lacks a field. So may TypeError and AttributeError.
    """
    if config.get("model_type") != KNOWN:
        return None
    rows = (config.get("text_config") or config)["vocab_size"]
    added = {token["id"] for token in tokenizer["added_tokens"]}
    most = max({*tokenizer["model"]["vocab"].values(), *added})
    if most >= rows:
        return f"the tokenizer's tokens go to {most}, the model's embeddings to {rows - 1}"
    if config.get("image_token_id", most) not in added | {most}:
        return f"the tokenizer has no token {config['image_token_id']}, which stands for an image"
    return None


def tensors(header: Header) -> Iterator[tuple[str, Any]]:
    """The tensors of a header, by name."""
    return ((name, tensor) for name, tensor in header.items() if name != "__metadata__")


def qwen_tensors(config: Mapping[str, Any]) -> Iterator[tuple[str, Shape]]:
    """(name, shape) of every weight of Qwen2.5-VL, by the names of `_inner_name`.

    Older configurations have the language model's fields at the top.
    """
    text, vision = config.get("text_config") or config, config["vision_config"]
    hidden, wide, rows = text["hidden_size"], text["intermediate_size"], text["vocab_size"]
    width = text.get("head_dim") or hidden // text["num_attention_heads"]
    query, pair = text["num_attention_heads"] * width, text["num_key_value_heads"] * width
    yield "embed_tokens.weight", (rows, hidden)
    yield "norm.weight", (hidden,)
    if not config.get("tie_word_embeddings", text.get("tie_word_embeddings", False)):
        yield "lm_head.weight", (rows, hidden)
    for layer in (f"layers.{number}" for number in range(text["num_hidden_layers"])):
        yield f"{layer}.input_layernorm.weight", (hidden,)
        yield f"{layer}.post_attention_layernorm.weight", (hidden,)
        for part, out in (("q", query), ("k", pair), ("v", pair)):
            yield f"{layer}.self_attn.{part}_proj.weight", (out, hidden)
            yield f"{layer}.self_attn.{part}_proj.bias", (out,)
        yield f"{layer}.self_attn.o_proj.weight", (hidden, query)
        yield f"{layer}.mlp.gate_proj.weight", (wide, hidden)
        yield f"{layer}.mlp.up_proj.weight", (wide, hidden)
        yield f"{layer}.mlp.down_proj.weight", (hidden, wide)
    tower, inner = vision["hidden_size"], vision["intermediate_size"]
    side = vision.get("patch_size", 14)
    merged = tower * vision.get("spatial_merge_size", 2) ** 2
    yield (
        "visual.patch_embed.proj.weight",
        (
            *(tower, vision.get("in_channels", 3), vision.get("temporal_patch_size", 2)),
            *(side, side),
        ),
    )
    yield "visual.merger.ln_q.weight", (tower,)
    yield from _linear("visual.merger.mlp.0", merged, merged)
    yield from _linear("visual.merger.mlp.2", vision.get("out_hidden_size", hidden), merged)
    for block in (f"visual.blocks.{number}" for number in range(vision["depth"])):
        yield f"{block}.norm1.weight", (tower,)
        yield f"{block}.norm2.weight", (tower,)
        yield from _linear(f"{block}.attn.qkv", 3 * tower, tower)
        yield from _linear(f"{block}.attn.proj", tower, tower)
        yield from _linear(f"{block}.mlp.gate_proj", inner, tower)
        yield from _linear(f"{block}.mlp.up_proj", inner, tower)
        yield from _linear(f"{block}.mlp.down_proj", tower, inner)


def _linear(name: str, out: int, into: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (out, into)
    yield f"{name}.bias", (out,)


def _inner_name(name: str) -> str:
    """A weight's name without what versions of transformers put before it."""
    parts = name.split(".")
    while parts[0] in _OUTER:
        parts.pop(0)
    return ".".join(parts)

"""Sizes of a vision-language model, from its config.json. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pelican import settings
from pelican.errors import UserInputError


@dataclass(frozen=True)
class Shape:
    """Counts of parameters, and the widths that memory grows with."""

    name: str
    text_layer: int  # parameters of one block of the language model
    layers: int
    embedding: int  # and of the head, if it is not the same matrix
    head: int
    vision_block: int
    vision_depth: int
    vision_rest: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    vision_hidden: int
    vision_intermediate: int

    @property
    def text(self) -> int:
        """Parameters of the language model."""
        return self.text_layer * self.layers + self.embedding + self.head + self.hidden

    @property
    def vision(self) -> int:
        """Parameters of the vision tower and its merger."""
        return self.vision_block * self.vision_depth + self.vision_rest

    @property
    def total(self) -> int:
        return self.text + self.vision

    @property
    def largest_unit(self) -> int:
        """Parameters that are gathered together: a block, the embedding or the head."""
        return max(self.text_layer, self.embedding, self.head + self.hidden, self.vision_block)

    def kv_bytes(self, width: int) -> int:
        """Keys and values of one token, in numbers of `width` bytes."""
        return 2 * self.layers * self.kv_heads * self.head_width * width

    def adapters(self, rank: int) -> int:
        """Parameters of low-rank adapters on every linear layer of the language model."""
        q, kv = self.heads * self.head_width, self.kv_heads * self.head_width
        widths = 2 * (self.hidden + q) + 2 * (self.hidden + kv)
        return self.layers * rank * (widths + 3 * (self.hidden + self.intermediate))


def shape_of(where: str) -> Shape:
    """The shape of the checkpoint at a path, or of a published one by its name."""
    path = Path(settings.resolve(where)) / "config.json"
    if path.exists():
        try:
            config = json.loads(path.read_text())
            kind = config.get("model_type")
        except (ValueError, AttributeError):
            raise UserInputError(f"{path} is not a configuration in JSON; copy it again") from None
        if kind != "qwen2_5_vl":
            raise UserInputError(
                f"{path} is of a {kind!r}; pelican plan knows qwen2_5_vl, the"
                " policies that can be trained"
            )
        try:
            return qwen(where, config)
        except KeyError as missing:
            raise UserInputError(f"{path} lacks {missing}; copy it again") from None
    name = Path(where).name
    if name in _PUBLISHED:
        return qwen(name, _PUBLISHED[name])
    raise UserInputError(
        f"{where} is neither a folder with a config.json nor one of {', '.join(_PUBLISHED)};"
        " fetch its config.json, or correct models.policy"
    )


def qwen(name: str, config: dict[str, Any]) -> Shape:
    """Of Qwen2.5-VL's configuration; older ones have the language model's fields at the top."""
    text = config.get("text_config") or config
    vision = config["vision_config"]
    h, i = text["hidden_size"], text["intermediate_size"]
    heads, kv = text["num_attention_heads"], text["num_key_value_heads"]
    d = text.get("head_dim") or h // heads
    v, vi = vision["hidden_size"], vision["intermediate_size"]
    patch = 3 * vision.get("temporal_patch_size", 2) * vision.get("patch_size", 14) ** 2
    merged = v * vision.get("spatial_merge_size", 2) ** 2
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    q_k_v = h * heads * d + heads * d + 2 * (h * kv * d + kv * d)
    return Shape(
        name=name,
        text_layer=q_k_v + heads * d * h + 3 * h * i + 2 * h,
        layers=text["num_hidden_layers"],
        embedding=text["vocab_size"] * h,
        head=0 if tied else text["vocab_size"] * h,
        vision_block=4 * v * v + 4 * v + 3 * v * vi + 2 * vi + v + 2 * v,
        vision_depth=vision["depth"],
        vision_rest=patch * v + v + merged * merged + merged + merged * h + h,
        hidden=h,
        intermediate=i,
        heads=heads,
        kv_heads=kv,
        head_width=d,
        vocabulary=text["vocab_size"],
        vision_hidden=v,
        vision_intermediate=vi,
    )


def weight_bytes(where: str) -> int:
    """Bytes of a checkpoint that is only generated with, in bfloat16."""
    if Path(where).name in _TEACHERS and not Path(settings.resolve(where)).exists():
        return 2 * _TEACHERS[Path(where).name]
    files = list(Path(settings.resolve(where)).glob("*.safetensors"))
    if files:
        return sum(file.stat().st_size for file in files)
    return 2 * shape_of(where).total


def _published(**text: int) -> dict[str, Any]:
    vision = {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": text.pop("vision_intermediate"),
        "out_hidden_size": text["hidden_size"],
    }
    tied = bool(text.pop("tied", 0))
    return {"text_config": text, "vision_config": vision, "tie_word_embeddings": tied}


# As their model cards' config.json say.
_PUBLISHED = {
    "Qwen2.5-VL-3B-Instruct": _published(
        hidden_size=2048,
        intermediate_size=11008,
        num_hidden_layers=36,
        num_attention_heads=16,
        num_key_value_heads=2,
        vocab_size=151_936,
        vision_intermediate=3420,
        tied=1,
    ),
    "Qwen2.5-VL-7B-Instruct": _published(
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        vocab_size=152_064,
        vision_intermediate=3420,
    ),
    "Qwen2.5-VL-72B-Instruct": _published(
        hidden_size=8192,
        intermediate_size=29568,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=152_064,
        vision_intermediate=3456,
    ),
}
_TEACHERS = {"InternVL3_5-38B": 38_400_000_000}

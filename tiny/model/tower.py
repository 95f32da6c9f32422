"""Fast training of the vision tower: images of one size in one call, and a dense auxiliary task.

From language-model loss alone a tower this small learns the grammar of answers and not to look;
with a dense head (what is where, in every cell) it does. The head is thrown away.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tiny.sim.build import CELLS, DENSE_COLOURS, DENSE_KINDS, PER_CELL

_GEOMETRY = 4  # x, y, width, height
_FLAGS = 2  # in the tray, held
_PLACE = 1 + len(DENSE_KINDS) + len(DENSE_COLOURS) + _GEOMETRY + _FLAGS


def pixels_to_rows(pixels: Tensor, patch: int, merge: int) -> Tensor:
    """[n, 3, H, W] to patches [n, H * W / patch^2, 3 * patch^2] in the processor's order."""
    n, c, height, width = pixels.shape
    gh, gw = height // patch // merge, width // patch // merge
    rows = pixels.reshape(n, c, gh, merge, patch, gw, merge, patch)
    return rows.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(n, gh * gw * merge * merge, -1)


def encode(visual: Any, pixels: Tensor) -> Tensor:
    """Features [n, tokens, hidden] of normalised images of one size.

    The same function as `visual.forward` where every layer attends to the whole image; stock
    attention loops over the images. A still is its own second frame, so the two temporal slices of
    the patch kernel add up.
    """
    n = len(pixels)
    merge = visual.spatial_merge_size
    x = pixels_to_rows(pixels, visual.patch_size, merge)
    kernel = visual.patch_embed.proj.weight.sum(2).flatten(1)
    x = F.linear(x, kernel)
    cos, sin = visual.rotary_pos_emb(x[0], _positions(pixels, visual.patch_size, merge))
    cos, sin = cos[:, None].float(), sin[:, None].float()
    for block in visual.blocks:
        attention = block.attn
        qkv = attention.qkv(block.norm1(x)).view(n, x.shape[1], 3, attention.num_heads, -1)
        q, k, v = qkv.unbind(2)
        q, k = q * cos + _rotate_half(q) * sin, k * cos + _rotate_half(k) * sin
        mixed = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale=attention.scaling
        )
        x = x + attention.proj(mixed.transpose(1, 2).reshape(n, x.shape[1], -1))
        x = x + block.mlp(block.norm2(x))
    merged: Tensor = visual.merger(x.reshape(-1, x.shape[-1]))
    return merged.view(n, -1, merged.shape[-1])


def _positions(pixels: Tensor, patch: int, merge: int) -> Tensor:
    """Row and column of every patch, in the processor's order: [patches, 2]."""
    h, w = pixels.shape[-2] // patch, pixels.shape[-1] // patch
    grid = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))
    grid = grid.view(2, h // merge, merge, w // merge, merge)
    return grid.permute(1, 3, 2, 4, 0).reshape(-1, 2)


def _rotate_half(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([-b, a], -1)


class DenseHead(nn.Module):
    """Reads from every token what objects lie in its cell, and from all where the gripper is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.places = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, PER_CELL * _PLACE)
        )
        self.gripper = nn.Sequential(
            nn.Linear(CELLS * CELLS * width, 64), nn.GELU(), nn.Linear(64, 2)
        )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[n, 16, width] to places [n, 16, 2, _PLACE] and gripper [n, 2]."""
        places = self.places(features).unflatten(-1, (PER_CELL, _PLACE))
        return places, self.gripper(features.flatten(1))


def dense_loss(
    places: Tensor, gripper: Tensor, labels: Tensor, grips: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Loss and accuracies. `labels` [n, 4, 4, 2, 8] and `grips` [n, 2] as in `sim.build`."""
    labels = labels.view(len(labels), -1, PER_CELL, labels.shape[-1])
    there = labels[..., 0] >= 0
    presence, kind, colour, geometry, flags = places.split(
        [1, len(DENSE_KINDS), len(DENSE_COLOURS), _GEOMETRY, _FLAGS], -1
    )
    loss = F.binary_cross_entropy_with_logits(presence[..., 0], there.float()) * 4
    found = labels[there]
    loss = (
        loss
        + F.cross_entropy(kind[there], found[:, 0])
        + F.cross_entropy(colour[there], found[:, 1])
    )
    where = (geometry[there] - found[:, 2:6] / 100).abs()
    loss = loss + 20 * where.mean()
    loss = loss + 0.3 * F.binary_cross_entropy_with_logits(flags[there], found[:, 6:8].float())
    visible = grips[:, 0] >= 0  # cards have no gripper
    if visible.any():
        loss = loss + 4 * (gripper[visible] - grips[visible] / 100).abs().mean()
    with torch.no_grad():
        report = {
            "presence": ((presence[..., 0] > 0) == there).float().mean().item(),
            "kind": (kind[there].argmax(-1) == found[:, 0]).float().mean().item(),
            "colour": (colour[there].argmax(-1) == found[:, 1]).float().mean().item(),
            "position_error": 100 * where[:, :2].mean().item(),
            "gripper_error": 100 * (gripper[visible] - grips[visible] / 100).abs().mean().item(),
        }
    return loss, report

"""Log-probabilities of completions that share a prompt, computed with the prompt once."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pelican.engines.transformers_private import rotary_positions


def add_shared_prefix_logps(model: Any, group: int, temperature: float) -> None:
    """Let `model(shared_prefix=True, …)` return (log-probabilities, entropies) of completions.

    Tensors: `prompt_ids`, `prompt_mask` and `prompt_types` [groups, length], left-padded;
    `completion_ids`, `completion_mask` [groups * group, width]; the images of the prompts. The
    result is [groups * group, width] each. A wrapped forward, so that DDP sees one call.
    """
    original = model.forward

    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, shared_prefix: bool = False, **kwargs: Any) -> Any:
        if not shared_prefix:
            return original(*args, **kwargs)
        return _group_logps(self, group=group, temperature=temperature, **kwargs)

    model.forward = MethodType(forward, model)


def shared_prefix_logps(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    logits_to_keep: int,
    *,
    group: int,
    at_a_time: int,
    types: Tensor,
    images: Sequence[tuple[Tensor, Tensor] | None],
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies of a padded batch, [rows, logits_to_keep] each.

    Args:
        model: With `add_shared_prefix_logps`.
        input_ids: [rows, length], prompts left-padded; the rows of a group stand together.
        attention_mask: [rows, length], 0 where padding is.
        logits_to_keep: The completions' width, at the end of each row.
        group: Rows of one prompt.
        at_a_time: About how many rows go through the model together.
        types: [rows, length], 1 where a token stands for an image.
        images: Of each row, as `split_rows` gives them.
    """
    prompts = input_ids[::group, :-logits_to_keep]
    masks = attention_mask[::group, :-logits_to_keep]
    types, rows = types[::group, :-logits_to_keep], images[::group]
    # Prompts of like length together: padding that all of a chunk share is cut off.
    order = masks.sum(1).argsort()
    parts: list[tuple[Tensor, Tensor]] = []
    for chunk in order.chunk(max(1, len(order) * group // at_a_time)):
        start = int(masks[chunk].argmax(1).min())
        members = (chunk.unsqueeze(1) * group + torch.arange(group, device=chunk.device)).flatten()
        width = int(attention_mask[members, -logits_to_keep:].sum(1).max())
        logps, entropies = model(
            shared_prefix=True,
            prompt_ids=prompts[chunk, start:],
            prompt_mask=masks[chunk, start:],
            prompt_types=types[chunk, start:],
            completion_ids=input_ids[members, -logits_to_keep:][:, :width],
            completion_mask=attention_mask[members, -logits_to_keep:][:, :width],
            images=join_rows([rows[i] for i in chunk.tolist()]),
        )
        pad = (0, logits_to_keep - width)
        parts.append((F.pad(logps, pad), F.pad(entropies, pad)))
    back = order.argsort()
    logps, entropies = (
        torch.cat([part[i] for part in parts]).unflatten(0, (-1, group))[back].flatten(0, 1)
        for i in (0, 1)
    )
    return logps, entropies


def _group_logps(
    model: Any,
    *,
    group: int,
    temperature: float,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    prompt_types: Tensor,
    completion_ids: Tensor,
    completion_mask: Tensor,
    images: dict[str, Tensor],
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies of completions, [groups * group, width] each; 0 where masked.

    The arguments are those of the forward of `add_shared_prefix_logps`; `images` are those of the
    prompts, as `join_rows` gives them.
    """
    grids = images.get("image_grid_thw")
    positions = rotary_positions(model, prompt_ids, prompt_mask, prompt_types, grids)
    prompt = model.model(
        input_ids=prompt_ids,
        attention_mask=prompt_mask,
        position_ids=positions,
        use_cache=True,
        **images,
    )
    cache = prompt.past_key_values
    cache.batch_repeat_interleave(group)
    # The prompt's last position predicts the first completion token.
    hidden = prompt.last_hidden_state[:, -1:].repeat_interleave(group, 0)
    width = completion_ids.shape[1]
    if width > 1:
        start = (positions.amax((0, 2)) + 1).repeat_interleave(group)
        after = start.unsqueeze(1) + torch.arange(width - 1, device=start.device)
        rest = model.model(
            input_ids=completion_ids[:, :-1],
            attention_mask=torch.cat(
                [prompt_mask.repeat_interleave(group, 0), completion_mask[:, :-1]], 1
            ),
            position_ids=after.unsqueeze(0).expand(3, -1, -1),
            past_key_values=cache,
            use_cache=True,
        )
        hidden = torch.cat([hidden, rest.last_hidden_state], 1)
    logps = (model.lm_head(hidden).float() / temperature).log_softmax(-1)
    chosen = logps.gather(-1, completion_ids.unsqueeze(-1)).squeeze(-1)
    with torch.no_grad():
        entropies = -(logps.exp() * logps).sum(-1)
    kept = completion_mask.bool()
    return chosen.masked_fill(~kept, 0), entropies.masked_fill(~kept, 0)


def split_rows(
    pixel_values: Tensor | None, grids: Tensor | None, num_images: Sequence[int]
) -> list[tuple[Tensor, Tensor] | None]:
    """The images of each sample: patches [patches, width] and grids [images, 3]; None without an
    image.

    Args:
        pixel_values: [patches, width], those of all samples one after the other.
        grids: [images, 3], as `image_grid_thw`.
        num_images: Of each sample.
    """
    if pixel_values is None or grids is None:
        return [None] * len(num_images)
    per_sample = grids.split(list(num_images))
    pixels = pixel_values.split([int(grid.prod(-1).sum()) for grid in per_sample])
    return [
        (p, grid) if n else None for p, grid, n in zip(pixels, per_sample, num_images, strict=True)
    ]


def join_rows(rows: Sequence[tuple[Tensor, Tensor] | None]) -> dict[str, Tensor]:
    """The inverse of `split_rows`, as arguments of a model's call; none if no sample has an image."""
    there = [row for row in rows if row is not None]
    if not there:
        return {}
    return {
        "pixel_values": torch.cat([pixels for pixels, _ in there]),
        "image_grid_thw": torch.cat([grid for _, grid in there]),
    }

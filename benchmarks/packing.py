"""How much padding is left in SFT batches grouped by length, and what packing them would cost.

Packed, a pass is one sequence without padding whose parts do not see each other. With torch's
attention, which transformers uses here, a packed pass computes all pairs of its tokens and masks most
of them, while padded rows attend within themselves. Both ways have the same loss.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import at_most, figure, in_turns
from pelican.config.env import resolve
from pelican.config.presets import find_recipe
from pelican.data.pool import read_index
from pelican.data.tables import Quarantine
from pelican.engines.transformers import load_model
from pelican.training.distributed import partition, take
from pelican.training.sft import Demonstration, collate, schedule

BATCH = 32


def packed(model: Any, batch: dict[str, Any]) -> dict[str, Tensor]:
    """A right-padded batch as one row. Positions: of the text, by which parts are told apart, then
    the three of rotary embedding; [4, 1, tokens]."""
    kept = batch["attention_mask"].bool()
    rotary = model.model.get_rope_index(
        batch["input_ids"],
        mm_token_type_ids=batch["mm_token_type_ids"],
        image_grid_thw=batch.get("image_grid_thw"),
        attention_mask=batch["attention_mask"],
    )[0]
    text = (batch["attention_mask"].cumsum(1) - 1).unsqueeze(0)
    positions = torch.cat([text, rotary])[:, kept].unsqueeze(1)
    names = ("pixel_values", "image_grid_thw")
    return {
        "input_ids": batch["input_ids"][kept].unsqueeze(0),
        "labels": batch["labels"][kept].unsqueeze(0),
        "position_ids": positions,
        **{name: batch[name] for name in names if name in batch},
    }


def padding(lengths: list[int], order: list[int], limit: int | None) -> float:
    """Share of the computed tokens that are padding, over the batches of `order`."""
    computed = real = 0
    for start in range(0, len(order) - BATCH + 1, BATCH):
        own = [lengths[row] for row in order[start : start + BATCH]]
        for part in partition(own, limit):
            computed += len(part) * max(own[i] for i in part)
        real += sum(own)
    return 1 - real / computed


def run(samples: int, limit: int = 4096) -> None:
    torch.set_num_threads(1)
    sets = "model.cache_vision=false model.freeze_vision=false"
    recipe = find_recipe("tiny", [sets])
    model, encoder = load_model(recipe.model, Path(resolve(recipe.models.policy)))
    index = read_index(Path(resolve(recipe.data.train)))
    entries = index.entries[:: max(1, len(index.entries) // samples)]
    pixels = recipe.data.max_pixels
    rows = [
        Demonstration(s, f"<think>{s.question}</think><answer>{i}</answer>")
        for i, s in enumerate(index.load(entries, max_pixels=pixels, quarantine=Quarantine()))
    ]
    lengths = [
        len(encoder.prompt(r.sample).ids) + len(encoder.completion(r.completion)) for r in rows
    ]
    steps = len(rows) // BATCH
    grouped = schedule(lengths, steps, BATCH, 0)
    size = f"{len(rows)} rows of {min(lengths)} to {max(lengths)} tokens, {BATCH} a step"
    at_most("padding, grouped by length", padding(lengths, grouped, limit), "of tokens", 0.1, size)
    figure(
        "padding in the pool's order", padding(lengths, list(range(len(rows))), None), "of tokens"
    )
    mixed = grouped[: BATCH // 2] + grouped[-BATCH // 2 :]
    whole: dict[str, Any] = collate(encoder, [rows[i] for i in mixed])
    whole["num_images"] = [len(rows[i].sample.images) for i in mixed]
    parts = [take(whole, part) for part in partition([lengths[i] for i in mixed], limit)]
    for part in parts:
        del part["num_images"]
    ones = [packed(model, part) for part in parts]

    def loss(batches: list[dict[str, Any]]) -> float:
        model.zero_grad()
        total = 0.0
        for batch in batches:
            found = model(**batch, use_cache=False, num_items_in_batch=1).loss
            found.backward()
            total += float(found.detach())
        return total

    theirs, ours = loss(ones), loss(parts)
    padded_s, packed_s = in_turns(2, lambda: loss(parts), lambda: loss(ones))
    at_most("loss packed, off from padded", abs(theirs / ours - 1), "of it", 1e-4)
    note = f"passes of up to {limit} tokens, torch's attention; no flash kernel on a CPU"
    figure("time of packed passes over padded ones", packed_s / padded_s, "x", note)


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) == 2 else 640)

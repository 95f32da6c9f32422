"""Micro-batches by token count: one optimiser step in several passes of bounded size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pelican.collectives import from_all
from pelican.training.prefix import join_rows, split_rows


def partition(lengths: Sequence[int], limit: int | None, at_least: int = 1) -> list[list[int]]:
    """Item numbers in parts whose padded size, items times the longest, is at most `limit`.

    Items of like length share a part. An item beyond the limit is a part of its own. `at_least`
    parts are made if there are that many items, for the sake of ranks that need them.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    parts: list[list[int]] = []
    for item in order:
        if parts and (limit is None or (len(parts[-1]) + 1) * lengths[parts[-1][0]] <= limit):
            parts[-1].append(item)
        else:
            parts.append([item])
    while len(parts) < min(at_least, len(lengths)):
        largest = max(parts, key=len)
        half = len(largest) // 2
        at = parts.index(largest)
        parts[at : at + 1] = [largest[:half], largest[half:]]
    return parts


def same_number(lengths: Sequence[int], limit: int | None) -> list[list[int]]:
    """`partition` into as many parts on every rank: a sharded model's passes are collective.

    All ranks have the same number of items.
    """
    parts = partition(lengths, limit)
    return partition(lengths, limit, at_least=max(from_all(len(parts))))


def take(batch: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """These rows of a batch of tensors, with the padding that they share cut off.

    Of GRPO: prompts are padded on the left, completions on the right; of SFT: all on the right.
    Images come with `num_images`, one number per row.
    """
    index = torch.tensor(rows)
    skipped = {"pixel_values", "image_grid_thw", "num_images"}
    part: dict[str, Any] = {
        key: value[index.to(value.device)] if isinstance(value, Tensor) and value.dim() else value
        for key, value in batch.items()
        if key not in skipped
    }
    images = split_rows(batch.get("pixel_values"), batch.get("image_grid_thw"), batch["num_images"])
    part |= join_rows([images[row] for row in rows])
    part["num_images"] = [batch["num_images"][row] for row in rows]
    if "prompt_mask" not in part:
        width = int(part["attention_mask"].sum(1).max())
        return part | {
            key: part[key][:, :width]
            for key in ("input_ids", "attention_mask", "labels", "mm_token_type_ids")
        }
    start = int(part["prompt_mask"].argmax(1).min())
    width = int(part["completion_mask"].sum(1).max())
    prompt, whole = part["prompt_ids"].shape[1], part["mm_token_type_ids"].shape[1]
    part["mm_token_type_ids"] = part["mm_token_type_ids"][:, start : prompt + width]
    assert whole == prompt + part["completion_ids"].shape[1]
    for key in ("prompt_ids", "prompt_mask"):
        part[key] = part[key][:, start:]
    for key in (
        "completion_ids",
        "completion_mask",
        "ref_per_token_logps",
        "importance_sampling_ratio",
    ):
        if key in part:
            part[key] = part[key][:, :width]
    return part


@contextmanager
def last_of_step(trainer: Any, model: Any, last: bool) -> Iterator[None]:
    """Gradients of all but the last pass of a step stay here, where the strategy has room for them.

    FSDP2 sums them at every pass: kept here they would not be sharded. DeepSpeed does so too, and is
    told when the step is due.
    """
    accelerator = trainer.accelerator
    accelerator.gradient_state._set_sync_gradients(last)
    try:
        if last or trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
            yield
        elif hasattr(model, "no_sync"):
            with model.no_sync():
                yield
        else:
            yield
    finally:
        accelerator.gradient_state._set_sync_gradients(True)


class TokenBatches:
    """Trainer mix-in: a step's batch goes through the model in passes of at most `micro_tokens`."""

    micro_tokens: int | None = None

    def passes(self, inputs: dict[str, Any]) -> list[tuple[dict[str, Any], float]]:
        """Micro-batches of one step, each with the weight of its loss."""
        raise NotImplementedError

    def training_step(
        self, model: Any, inputs: Any, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Trainer's, over all passes; the loss is their weighted sum."""
        trainer: Any = self
        model.train()
        passes = self.passes(trainer._prepare_inputs(inputs))
        more = {"scale_wrt_gas": False} if trainer.is_deepspeed_enabled else {}
        total: Tensor | None = None
        for number, (part, weight) in enumerate(passes):
            with last_of_step(trainer, model, number + 1 == len(passes)):
                with trainer.compute_loss_context_manager():
                    loss = trainer.compute_loss(model, part, num_items_in_batch=num_items_in_batch)
                loss = loss * weight
                trainer.accelerator.backward(loss, **more)
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        return total

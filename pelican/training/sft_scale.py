"""Supervised fine-tuning over many processes: the policy sharded, passes of bounded size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pelican.engines.prompts import PromptEncoder
from pelican.recipe import Recipe
from pelican.training.backends import ShardedOnCpus
from pelican.training.batches import TokenBatches, same_number, take
from pelican.training.sft import Collator, Demonstration, DemonstrationTrainer


class _CountingCollator(Collator):
    """Says also how many images each row has, so that a batch can be split."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        counts = [len(self._rows[feature["row"]].sample.images) for feature in features]
        return {**super().__call__(features), "num_images": counts}


class ScaledSftTrainer(ShardedOnCpus, TokenBatches, DemonstrationTrainer):
    """DemonstrationTrainer in passes of at most `parallel.micro_tokens` tokens."""

    def __init__(
        self,
        *args: Any,
        recipe: Recipe,
        encoder: PromptEncoder,
        rows: Sequence[Demonstration],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, encoder=encoder, rows=rows, **kwargs)
        self.data_collator = _CountingCollator(encoder, rows)
        self.micro_tokens = recipe.parallel.micro_tokens
        # So that it hands over the tokens of the whole step, by which every pass's loss is divided.
        self.model_accepts_loss_kwargs = True

    def passes(self, inputs: dict[str, Any]) -> list[tuple[dict[str, Any], float]]:
        lengths = [int(n) for n in inputs["attention_mask"].sum(1).tolist()]
        parts = [take(inputs, rows) for rows in same_number(lengths, self.micro_tokens)]
        for part in parts:
            del part["num_images"]
        return [(part, 1.0) for part in parts]  # each loss is a sum over the step's tokens

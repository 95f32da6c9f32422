"""Supervised fine-tuning on verified completions and replay: TRL's SFTTrainer, Pelican's prompts.

The loss is on the completion's tokens alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PrinterCallback
from trl import SFTTrainer

from pelican.config.recipe import Recipe
from pelican.engines.transformers import PromptEncoder
from pelican.engines.transformers_private import ExactResume
from pelican.monitoring import record
from pelican.records import Sample
from pelican.training.distributed import ScaledTraining, same_number, take

_IGNORED = -100


@dataclass(frozen=True)
class Demonstration:
    """A sample with the completion to learn."""

    sample: Sample
    completion: str


class Collator:
    """Makes a batch of rows of the data set, which are numbers; images are prepared here, when needed."""

    def __init__(self, encoder: PromptEncoder, rows: Sequence[Demonstration]) -> None:
        self._encoder = encoder
        self._rows = rows

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Tensor]:
        rows = [self._rows[feature["row"]] for feature in features]
        with record.timed("data"):
            batch = collate(self._encoder, rows)
        record.trained(batch["labels"], _IGNORED)
        return batch


def collate(encoder: PromptEncoder, rows: Sequence[Demonstration]) -> dict[str, Tensor]:
    """A batch padded on the right: `input_ids`, `attention_mask`, `labels`, `mm_token_type_ids` [rows,
    tokens], and the images. Labels of prompts and padding are -100, which the loss leaves out.
    """
    prompts = [encoder.prompt(row.sample) for row in rows]
    completions = [encoder.completion(row.completion) for row in rows]
    ids, mask = encoder.pad([p.ids + c for p, c in zip(prompts, completions, strict=True)], "right")
    labels = torch.full_like(ids, _IGNORED)
    for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        start = len(prompt.ids)
        labels[i, start : start + len(completion)] = torch.tensor(completion)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels,
        "mm_token_type_ids": encoder.token_types(ids),
        **encoder.image_inputs(prompts),
    }


def schedule(lengths: Sequence[int], steps: int, batch: int, seed: int) -> list[int]:
    """Row numbers of `steps` batches, rows of like length together; every round has each row once.

    Made in advance for the whole training, so that a resumed one goes on in the same order.

    Args:
        lengths: tokens of each row.
        steps: batches.
        batch: rows of a batch.
        seed: of the orders.
    """
    drawn: list[int] = []
    for turn in range(-(-steps * batch // max(1, len(lengths))) + 1):
        rng = np.random.default_rng((seed, turn))
        # Rows of equal length in another order every round; what fills no batch comes last.
        order = sorted(rng.permutation(len(lengths)).tolist(), key=lambda row: lengths[row])
        batches = [order[i : i + batch] for i in range(0, len(order), batch)]
        rest = batches.pop() if len(batches[-1]) < batch else []
        drawn += [row for i in rng.permutation(len(batches)) for row in batches[i]] + rest
    return drawn[: steps * batch]


class DemonstrationTrainer(ExactResume, SFTTrainer):  # type: ignore[misc]
    """SFTTrainer on demonstrations; rows of similar length share a batch."""

    def __init__(
        self, *args: Any, encoder: PromptEncoder, rows: Sequence[Demonstration], **kwargs: Any
    ) -> None:
        lengths = [encoder.length(r.sample) + len(r.completion) // 2 for r in rows]
        config = kwargs["args"]
        batch = config.per_device_train_batch_size * config.world_size
        order = schedule(lengths, config.max_steps, batch, config.seed)
        # TRL looks for a column of token ids although the rows are encoded by our collator.
        data = Dataset.from_dict({"row": order, "input_ids": [[0]] * len(order)})
        super().__init__(*args, train_dataset=data, data_collator=Collator(encoder, rows), **kwargs)
        self.remove_callback(PrinterCallback)  # what it logs is in the curve


# Supervised fine-tuning over many processes: the policy sharded, passes of bounded size.


class _CountingCollator(Collator):
    """Adds `num_images`, a number per row, by which `take` splits the images of a batch."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        counts = [len(self._rows[feature["row"]].sample.images) for feature in features]
        return {**super().__call__(features), "num_images": counts}


class ScaledSftTrainer(ScaledTraining, DemonstrationTrainer):
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

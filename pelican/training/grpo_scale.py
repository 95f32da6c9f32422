"""GRPO over many processes: groups are drawn, kept and refilled for all of them together.

Which groups a step trains on depends on the seed and the step alone, not on how many processes
share the work, so a training goes on the same way on another number of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from pelican.engines.base import rollout_seed
from pelican.engines.prompts import Encoded
from pelican.engines.transformers import TransformersEngine
from pelican.recipe import Recipe
from pelican.records import Sample, Score
from pelican.training.backends import ShardedOnCpus, load_copy, load_weights
from pelican.training.batches import TokenBatches, same_number, take
from pelican.training.grpo import _EPSILON, DeliberateGrpoTrainer, Group, StepRecord
from pelican.training.prefix import add_shared_prefix
from pelican.training.weights import copy_weights

# Of one group: number among all drawn in this step, sample, completions, scores.
_Record = tuple[int, int, list[list[int]], list[Score]]


class ScaledGrpoTrainer(ShardedOnCpus, TokenBatches, DeliberateGrpoTrainer):
    """DeliberateGrpoTrainer with a sharded or adapted policy, and with passes of bounded size.

    Rollouts come from a whole copy of the policy in each process, brought to the policy's weights
    before every step. The reference is the phase's start, or the policy without its adapters.
    """

    # A pass is one call on every rank: a sharded model's calls are collective.
    rows_per_pass = 2**31

    def __init__(self, *args: Any, recipe: Recipe, checkpoint: Path, encoder: Any, **kwargs: Any):
        config = kwargs["args"]
        beta, config.beta = config.beta, 0.0  # TRL would gather its own reference whole
        engine = TransformersEngine(load_copy(recipe, checkpoint), encoder, batch_size=1)
        super().__init__(*args, engine=engine, config=recipe.rl, **kwargs)
        self.args.beta = self.beta = beta
        self.micro_tokens = recipe.parallel.micro_tokens
        self._adapted = recipe.parallel.lora_rank is not None
        if beta and not self._adapted:
            self.ref_model = self._reference(recipe, checkpoint)

    def _reference(self, recipe: Recipe, checkpoint: Path) -> Any:
        """The phase's start, sharded as the policy is."""
        reference = load_weights(recipe, checkpoint, getattr(torch, recipe.model.dtype))
        reference.requires_grad_(False)
        if self._by_row:  # as TRL does with a reference of its own
            add_fused_lm_head(reference, temperature=self.temperature)
        add_shared_prefix(reference, self._config.group_size, self.temperature)
        if self.is_deepspeed_enabled:
            from trl.models import prepare_deepspeed

            return prepare_deepspeed(reference, self.accelerator)
        if self.is_fsdp_enabled:
            from accelerate.utils.fsdp_utils import fsdp2_prepare_model

            return fsdp2_prepare_model(self.accelerator, reference).eval()
        return reference.to(self.accelerator.device).eval()

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        copy_weights(self.model_wrapped, self._engine.policy)
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        return batch

    def _collect(self, wanted: list[int]) -> StepRecord:
        """This rank's share of the step's groups; `wanted` are its rows of the schedule."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        everyone = [index for share in self._all(wanted) for index in share]
        more = round((self._config.oversample - 1) * len(everyone))
        refills = self._refills(everyone)
        mine: dict[int, Group] = {}
        records: dict[int, _Record] = {}
        flat: list[int] = []
        kept: list[int] = []
        for attempt in range(1 + self._config.refill):
            indices = everyone if attempt == 0 else []
            missing = len(everyone) - len(kept) + more - len(indices)
            indices = [*indices, *(next(refills) for _ in range(missing))]
            first = len(records)
            numbers = range(first + rank, first + len(indices), world)
            groups = self._roll_out([indices[n - first] for n in numbers], numbers)
            mine |= dict(zip(numbers, groups, strict=True))
            shares = self._all(
                [
                    (n, indices[n - first], g.completions, g.scores)
                    for n, g in zip(numbers, groups, strict=True)
                ]
            )
            records |= {record[0]: record for share in shares for record in share}
            new = range(first, len(records))
            varied = [n for n in new if _varies(records[n])]
            kept += varied
            flat = [n for n in new if n not in varied]
            if len(kept) >= len(everyone):
                break
        chosen = (kept + flat)[: len(everyone)]
        share = self._share([records[n] for n in chosen], rank, world)
        trained = [mine[r[0]] if r[0] in mine else self._group(r) for r in share]
        return StepRecord(self.state.global_step, trained, list(mine.values()))

    def _share(self, records: Sequence[_Record], rank: int, world: int) -> list[_Record]:
        """As many groups for every rank, and about as many tokens: dealt out by length, to and fro."""
        order = sorted(records, key=lambda r: (-sum(map(len, r[2])), r[0]))
        rounds = [order[i : i + world] for i in range(0, len(order), world)]
        return [
            deal[rank if turn % 2 == 0 else world - 1 - rank] for turn, deal in enumerate(rounds)
        ]

    def _group(self, record: _Record) -> Group:
        """A group that another rank rolled out."""
        sample = self._samples[record[1]]
        return Group(sample, self._engine.encoder.prompt(sample), record[2], record[3])

    def _refills(self, wanted: Sequence[int]) -> Any:
        """As the parent's, the same on every rank."""
        seed = (self.args.seed, self.state.global_step)
        order = np.random.default_rng(seed).permutation(len(self._samples)).tolist()
        taken = set(wanted)
        yield from (i for i in order if i not in taken)
        while True:
            yield from order

    def _seeds(self, samples: Sequence[Sample], numbers: Any) -> list[list[int]]:
        """By a group's number in the step, whichever rank rolls it out."""
        step = self.state.global_step
        return [
            [rollout_seed(self.args.seed, f"{step}/{n}/{sample.id}", j) for j in range(self._drawn)]
            for sample, n in zip(samples, numbers, strict=True)
        ]

    def _all(self, value: Any) -> list[Any]:
        """The values of all ranks."""
        if self.accelerator.num_processes == 1:
            return [value]
        values: list[Any] = [None] * self.accelerator.num_processes
        torch.distributed.all_gather_object(values, value)
        return values

    def _batch(self, groups: list[Group]) -> dict[str, Any]:
        """The parent's tensors without images: those are brought to the device pass by pass."""
        self._parts: list[list[int]] = []
        self._groups = groups
        batch = super()._batch(groups)
        if self.beta and self._adapted:
            batch["ref_per_token_logps"] = self._reference_logps(batch)
        return batch

    def _images(self, prompts: Sequence[Encoded]) -> dict[str, Tensor]:
        return {}

    def _pass(self, batch: dict[str, Any], rows: Sequence[int]) -> dict[str, Any]:
        """Rows of the step's batch, with their images."""
        prompts = [self._groups[row // self._config.group_size].prompt for row in rows]
        return take(batch, rows) | super()._images(prompts)

    def _split(self, batch: dict[str, Any]) -> list[list[int]]:
        """Rows of every pass. Rows of a group stay together where its prompt is computed once."""
        if not self._parts:
            group = 1 if self._by_row else self._config.group_size
            rows = batch["prompt_mask"].sum(1) + batch["completion_mask"].sum(1)
            longest = rows.view(-1, group).amax(1).mul(group).tolist()
            parts = same_number([int(n) for n in longest], self.micro_tokens)
            self._parts = [[i * group + j for i in part for j in range(group)] for part in parts]
        return self._parts

    @property
    def _by_row(self) -> bool:
        return bool(self.args.gradient_checkpointing) or self._adapted

    def passes(self, inputs: dict[str, Any]) -> list[tuple[dict[str, Any], float]]:
        rows = len(inputs["prompt_ids"])
        return [(self._pass(inputs, part), len(part) / rows) for part in self._split(inputs)]

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        self._step += 1  # TRL counts its own
        return loss

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """TRL's where prompts are not shared: keys are not kept through adapters' wrappers."""
        if self._by_row:
            return GRPOTrainer._get_per_token_logps_and_entropies(self, model, *args, **kwargs)
        return super()._get_per_token_logps_and_entropies(model, *args, **kwargs)

    @torch.no_grad()
    def _reference_logps(self, batch: dict[str, Any]) -> Tensor:
        """[rows, width of completions], pass by pass."""
        ids: Tensor = batch["completion_ids"]
        found = torch.zeros(ids.shape, dtype=torch.float, device=ids.device)
        model = self.model_wrapped if self._adapted else self.ref_model
        bare = self.accelerator.unwrap_model(model)
        with bare.disable_adapter() if self._adapted else nullcontext():
            for rows in self._split(batch):
                part = self._pass(batch, rows)
                with self.accelerator.autocast():
                    logps = self._get_per_token_logps_and_entropies(
                        model,
                        torch.cat([part["prompt_ids"], part["completion_ids"]], 1),
                        torch.cat([part["prompt_mask"], part["completion_mask"]], 1),
                        part["completion_ids"].size(1),
                        pixel_values=part.get("pixel_values"),
                        image_grid_thw=part.get("image_grid_thw"),
                        num_images=part["num_images"],
                        mm_token_type_ids=part["mm_token_type_ids"],
                    )[0]
                found[torch.tensor(rows, device=found.device), : logps.shape[1]] = logps.float()
        return found


def _varies(record: _Record) -> bool:
    return bool(np.std([score.reward for score in record[3]]) > _EPSILON)

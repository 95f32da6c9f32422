"""GRPO over many processes: a sharded or adapted policy, with passes of bounded size."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from pelican.engines.prompts import Encoded
from pelican.recipe import Recipe
from pelican.training.backends import ShardedOnCpus, load_copy, load_weights
from pelican.training.batches import TokenBatches, same_number, take
from pelican.training.generation import Generation, InProcess
from pelican.training.groups import Group
from pelican.training.prefix import add_shared_prefix
from pelican.training.together import DrawnTogether


class ScaledGrpoTrainer(ShardedOnCpus, TokenBatches, DrawnTogether):
    """DrawnTogether with a sharded or adapted policy, and with passes of bounded size.

    Rollouts come from `generation`, unless given a whole copy of the policy in each process. The
    reference is the phase's start, or the policy without its adapters.
    """

    # A pass is one call on every rank: a sharded model's calls are collective.
    rows_per_pass = 2**31

    def __init__(
        self,
        *args: Any,
        recipe: Recipe,
        checkpoint: Path,
        encoder: Any,
        generation: Generation | None = None,
        **kwargs: Any,
    ):
        config = kwargs["args"]
        beta, config.beta = config.beta, 0.0  # TRL would gather its own reference whole
        generation = generation or InProcess(load_copy(recipe, checkpoint), encoder)
        super().__init__(*args, engine=generation, config=recipe.rl, **kwargs)
        if self._cap is not None:  # TRL's loss then reads `importance_sampling_ratio`
            self.use_vllm = self.vllm_importance_sampling_correction = True
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

    def _batch(self, groups: list[Group]) -> dict[str, Any]:
        """The parent's tensors without images: those are brought to the device pass by pass."""
        self._parts: list[list[int]] = []
        self._groups = groups
        batch = super()._batch(groups)
        if self.beta and self._adapted:
            batch["ref_per_token_logps"] = self._reference_logps(batch)
        if self._cap is not None:
            batch["importance_sampling_ratio"] = self._importance(batch, groups, self._cap)
        return batch

    @torch.no_grad()
    def _importance(self, batch: dict[str, Any], groups: list[Group], cap: float) -> Tensor:
        """min(policy / sampler, cap) of every token, [rows, width]: truncated importance sampling.

        TRL's `token_truncate` (GRPOConfig.vllm_importance_sampling_mode), which its loss applies.
        """
        rows = [logps for group in groups for logps in group.logps or ()]
        now = self._logps(batch, self.model_wrapped)
        then = now.clone()
        for row, logps in enumerate(rows):
            then[row, : len(logps)] = torch.tensor(logps, device=now.device)
        mask = batch["completion_mask"].bool()
        ratio = (now - then).masked_fill(~mask, 0).exp()
        self._metrics["train"]["importance_ratio"].append(float(ratio[mask].mean()))
        return ratio.clamp(max=cap)

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

    def _reference_logps(self, batch: dict[str, Any]) -> Tensor:
        model = self.model_wrapped if self._adapted else self.ref_model
        bare = self.accelerator.unwrap_model(model)
        with bare.disable_adapter() if self._adapted else nullcontext():
            return self._logps(batch, model)

    @torch.no_grad()
    def _logps(self, batch: dict[str, Any], model: Any) -> Tensor:
        """[rows, width of completions], pass by pass."""
        ids: Tensor = batch["completion_ids"]
        found = torch.zeros(ids.shape, dtype=torch.float, device=ids.device)
        for rows in self._split(batch):
            with self.accelerator.autocast():
                logps = self._logps_of(model, self._pass(batch, rows))
            found[torch.tensor(rows, device=found.device), : logps.shape[1]] = logps.float()
        return found

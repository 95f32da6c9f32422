"""GRPO at scale: a sharded or adapted policy, passes of bounded size, asynchronous rollouts."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from trl.trainer.utils import add_fused_lm_head

from pelican.config.recipe import Recipe
from pelican.engines.transformers import Encoded
from pelican.engines.transformers_private import encode_in_every_pass
from pelican.records import Sample
from pelican.training.distributed import (
    ScaledTraining,
    gather_head,
    load_copy,
    load_weights,
    same_number,
    take,
)
from pelican.training.grpo import DeliberateGrpoTrainer, Group, StepRecord
from pelican.training.logprobs import add_shared_prefix_logps
from pelican.training.sampling import LocalSampler, Sampler
from pelican.training.trl_private import GrpoTrainer

T = TypeVar("T")


class ScaledGrpoTrainer(ScaledTraining, DeliberateGrpoTrainer):
    """DeliberateGrpoTrainer with a sharded or adapted policy, and with passes of bounded size.

    Completions come from `sampler`, by default from a whole copy of the policy in each process. It is
    brought to the policy's weights before every step; or, if they may be `max_staleness` steps old,
    once in so many steps, and then draws for the steps to come while this one trains. The reference is
    the policy at the start of the phase, or without its adapters.
    """

    # A pass is one call on every rank: a sharded model's calls are collective.
    rows_per_pass = 2**31

    def __init__(
        self,
        *args: Any,
        recipe: Recipe,
        checkpoint: Path,
        encoder: Any,
        sampler: Sampler | None = None,
        **kwargs: Any,
    ):
        config = kwargs["args"]
        beta, config.beta = config.beta, 0.0  # TRL would gather its own reference whole
        sampler = sampler or LocalSampler(load_copy(recipe, checkpoint), encoder)
        super().__init__(*args, engine=sampler, config=recipe.rl, **kwargs)
        self._sampler = sampler
        self._synced = -1  # the step whose weights the sampler has
        self._staleness = recipe.rl.generation.max_staleness
        self._queue: RolloutQueue[StepRecord] | None = RolloutQueue() if self._staleness else None
        if self._queue is not None and self.accelerator.num_processes > 1:
            # Groups are exchanged in one thread while another trains, so their collectives must not mix.
            self._exchange = torch.distributed.new_group(
                backend="gloo", timeout=timedelta(hours=24)
            )
        served = recipe.rl.generation.where == "server"
        self._cap = recipe.rl.generation.importance_cap if served else None
        if self._cap is not None:  # TRL's loss then reads `importance_sampling_ratio`
            self.use_vllm = self.vllm_importance_sampling_correction = True
        self.args.beta = self.beta = beta
        self.micro_tokens = recipe.parallel.micro_tokens
        self._adapted = recipe.parallel.lora_rank is not None
        if beta and not self._adapted:
            self.ref_model = self._reference(recipe, checkpoint)

    def _reference(self, recipe: Recipe, checkpoint: Path) -> Any:
        """The policy at the start of the phase, sharded as the policy is."""
        reference = load_weights(
            recipe, checkpoint, getattr(torch, recipe.model.dtype), self.accelerator.device
        )
        encode_in_every_pass(reference)
        gather_head(reference)
        reference.requires_grad_(False)
        if self._by_row:  # as TRL does with a reference of its own
            add_fused_lm_head(reference, temperature=self.temperature)
        add_shared_prefix_logps(reference, self._config.group_size, self.temperature)
        if self.is_deepspeed_enabled:
            from trl.models import prepare_deepspeed

            return prepare_deepspeed(reference, self.accelerator)
        if self.is_fsdp_enabled:
            from accelerate.utils.fsdp_utils import fsdp2_prepare_model

            return fsdp2_prepare_model(self.accelerator, reference).eval()
        return reference.to(self.accelerator.device).eval()

    def draw(self, samples: Sequence[int]) -> StepRecord:
        """As the parent's, with new weights of the sampler when its own are too old."""
        step, queue = int(self.state.global_step), self._queue
        from_queue = bool(queue)
        if queue:
            record = queue.next()
        else:
            self._sync(step)
            record = super().draw(samples)
        if queue is not None and not queue:
            # All that was asked for has been drawn, so the weights may change.
            following = range(step + 1, min(step + 1 + self._staleness, self.args.max_steps))
            if following and from_queue:
                self._sync(step)
            for later in following:
                queue.submit(partial(self.draw_groups, self._scheduled(later), later))
        return record

    def update_sampler(self) -> None:
        """While steps are drawn ahead the sampler keeps the weights that they are drawn with."""
        if not self._queue:
            self._sync(int(self.state.global_step))

    def _sync(self, step: int) -> None:
        if step == self._synced:
            return
        self._synced = step
        difference = self._sampler.sync_weights(self.model_wrapped, step)
        if difference is not None:
            self.record_metric("sync_difference", difference)

    def _scheduled(self, step: int) -> list[int]:
        """Indices of the samples that the schedule has for a step, of all ranks."""
        size = self._config.prompts_per_step
        samples: list[int] = self.train_dataset["sample"][step * size : (step + 1) * size]
        return samples

    def complete(
        self,
        samples: Sequence[Sample],
        prompts: Sequence[Encoded],
        seeds: Sequence[Sequence[int]],
    ) -> tuple[list[list[list[int]]], Sequence[list[list[float]] | None]]:
        groups = self._sampler.complete(samples, prompts, self._config.sampling, seeds)
        ids = [[one.ids for one in group] for group in groups]
        if self._cap is None:
            return ids, [None] * len(groups)
        return ids, [[one.logps for one in group] for group in groups]

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's; then waits for completions of steps that are not made any more."""
        output = super().train(*args, **kwargs)
        if self._queue is not None:
            self._queue.close()
        return output

    def _tensors(self, groups: list[Group]) -> dict[str, Any]:
        """The parent's tensors without images: those are brought to the device pass by pass."""
        # For `_split` and `_pass`: TRL makes the tensors of a step once, before all of its passes.
        self._parts: list[list[int]] = []
        self._groups = groups
        batch = super()._tensors(groups)
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
        now = self._logps_by_pass(batch, self.model_wrapped)
        then = now.clone()
        for row, logps in enumerate(rows):
            then[row, : len(logps)] = torch.tensor(logps, device=now.device)
        mask = batch["completion_mask"].bool()
        ratio = (now - then).masked_fill(~mask, 0).exp()
        self.record_metric("importance_ratio", float(ratio[mask].mean()))
        return ratio.clamp(max=cap)

    def _images(self, prompts: Sequence[Encoded]) -> dict[str, Tensor]:
        return {}

    def _pass(self, batch: dict[str, Any], rows: Sequence[int]) -> dict[str, Any]:
        """Rows of the step's batch, with their images."""
        prompts = [self._groups[row // self._config.group_size].prompt for row in rows]
        return take(batch, rows) | super()._images(prompts)

    def _split(self, batch: dict[str, Any]) -> list[list[int]]:
        """Numbers of the rows of every pass; a group stays together if its prompt is computed once."""
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
        self.count_step()
        return loss

    def token_logps(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """TRL's own where a prompt is not shared, because adapters' wrappers keep no keys."""
        if self._by_row:
            return GrpoTrainer.token_logps(self, model, *args, **kwargs)
        return super().token_logps(model, *args, **kwargs)

    def _reference_logps(self, batch: dict[str, Any]) -> Tensor:
        """Log-probabilities of the batch's completions by the reference, [rows, width]."""
        model = self.model_wrapped if self._adapted else self.ref_model
        bare = self.accelerator.unwrap_model(model)
        with bare.disable_adapter() if self._adapted else nullcontext():
            return self._logps_by_pass(batch, model)

    @torch.no_grad()
    def _logps_by_pass(self, batch: dict[str, Any], model: Any) -> Tensor:
        """Log-probabilities of the batch's completions by `model`, pass by pass: [rows, width]."""
        ids: Tensor = batch["completion_ids"]
        found = torch.zeros(ids.shape, dtype=torch.float, device=ids.device)
        for rows in self._split(batch):
            with self.accelerator.autocast():
                logps = self._completion_logps(model, self._pass(batch, rows))
            found[torch.tensor(rows, device=found.device), : logps.shape[1]] = logps.float()
        return found


class RolloutQueue(Generic[T]):
    """Asynchronous rollouts: calls that a thread makes one after the other, while this one trains.

    The thread is a daemon, because a process that fails must not wait at its end for a collective that
    the other ranks never join.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], T], Future[T]] | None]
        self._calls = SimpleQueue()
        self._results: deque[Future[T]] = deque()
        self._thread = threading.Thread(target=self._run, name="rollouts", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Submitted calls whose result was not taken yet."""
        return len(self._results)

    def submit(self, call: Callable[[], T]) -> None:
        future: Future[T] = Future()
        self._results.append(future)
        self._calls.put((call, future))

    def next(self) -> T:
        """Wait for the oldest call, and return its result or raise its error."""
        return self._results.popleft().result()

    def close(self) -> None:
        """Wait for all calls and forget their results."""
        self._calls.put(None)
        self._thread.join()
        self._results.clear()

    def _run(self) -> None:
        while (work := self._calls.get()) is not None:
            call, future = work
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)

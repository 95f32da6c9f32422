"""GRPO where the model is sharded: groups are drawn for all ranks together, and ahead."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from trl.trainer.utils import add_fused_lm_head

from pelican.base.process import all_gather_object
from pelican.config.recipe import Recipe, RlConfig
from pelican.engines.base import rollout_seed
from pelican.engines.transformers import Encoded
from pelican.records import Sample, Score
from pelican.training.distributed import (
    ShardedOnCpus,
    TokenBatches,
    load_copy,
    load_weights,
    same_number,
    take,
)
from pelican.training.grpo import EPSILON, DeliberateGrpoTrainer, Group, StepRecord
from pelican.training.logprobs import add_shared_prefix
from pelican.training.sampling import Generation, InProcess
from pelican.training.trl_private import GrpoTrainer

# Work for later steps in a thread of its own, while this step trains.

T = TypeVar("T")


class Ahead(Generic[T]):
    """Calls in the order in which they were submitted, and their results in that order.

    A daemon thread: a process that fails must not wait at its end for what others never send.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], T], Future[T]] | None]
        self._calls = queue.SimpleQueue()
        self._results: deque[Future[T]] = deque()
        self._thread = threading.Thread(target=self._run, name="ahead", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Results that nobody took yet."""
        return len(self._results)

    def submit(self, call: Callable[[], T]) -> None:
        future: Future[T] = Future()
        self._results.append(future)
        self._calls.put((call, future))

    def next(self) -> T:
        """The oldest result, waited for; or its call's error."""
        return self._results.popleft().result()

    def close(self) -> None:
        """Wait for all calls and forget their results."""
        self._calls.put(None)
        self._thread.join()
        self._results.clear()

    def _run(self) -> None:
        while (asked := self._calls.get()) is not None:
            call, future = asked
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)


# GRPO's groups drawn for all ranks together: kept, refilled, and dealt out again by length.
#
# Nothing here depends on how many ranks there are but who does the work, so a training goes on the
# same way on another number of them.

# Of one group: number among all drawn in this step, sample, completions, scores, log-probabilities.
_Record = tuple[int, int, list[list[int]], list[Score], list[list[float]] | None]


class DrawnTogether(DeliberateGrpoTrainer):
    """DeliberateGrpoTrainer whose groups are those of a step, whichever rank rolls them out.

    `engine` is brought to the policy's weights before every step; or, if they may be
    `max_staleness` steps old, before every so many, and then draws for the steps to come while this
    one trains.
    """

    def __init__(self, *args: Any, engine: Generation, config: RlConfig, **kwargs: Any) -> None:
        super().__init__(*args, engine=engine, config=config, **kwargs)
        self._generation = engine
        self._staleness = config.generation.max_staleness
        self._ahead: Ahead[StepRecord] | None = Ahead() if self._staleness else None
        self._drawn_step = 0
        # Groups are exchanged while another thread trains: its collectives must not mix with ours.
        self._exchange = (
            torch.distributed.new_group(backend="gloo", timeout=timedelta(hours=24))
            if self._staleness and self.accelerator.num_processes > 1
            else None
        )
        served = config.generation.where == "server"
        self._cap = config.generation.importance_cap if served else None

    @property
    def drawn_step(self) -> int:
        return self._drawn_step

    def _sync(self, step: int) -> None:
        difference = self._generation.sync(self.model_wrapped, step)
        if difference is not None:
            self.record_metric("sync_difference", difference)

    def _complete(
        self,
        samples: Sequence[Sample],
        prompts: Sequence[Encoded],
        seeds: Sequence[Sequence[int]],
    ) -> tuple[list[list[list[int]]], Sequence[list[list[float]] | None]]:
        groups = self._generation.complete(samples, prompts, self._config.sampling, seeds)
        ids = [[one.ids for one in group] for group in groups]
        if self._cap is None:
            return ids, [None] * len(groups)
        return ids, [[one.logps for one in group] for group in groups]

    def _collect(self, wanted: list[int]) -> StepRecord:
        """This rank's share of the step's groups; `wanted` are its rows of the schedule."""
        step, ahead = int(self.state.global_step), self._ahead
        drawn = bool(ahead)
        if drawn:
            assert ahead is not None
            record = ahead.next()
        else:
            self._sync(step)
            record = self._draw(
                [index for share in all_gather_object(wanted, self._exchange) for index in share],
                step,
            )
        if ahead is not None and not ahead and step + 1 < self.args.max_steps:
            # All that was asked for is drawn, so weights may change.
            if drawn:
                self._sync(step)
            for later in range(step + 1, min(step + 1 + self._staleness, self.args.max_steps)):
                ahead.submit(partial(self._draw, self._scheduled(later), later))
        return record

    def _scheduled(self, step: int) -> list[int]:
        """The samples of a step, of all ranks."""
        size = self._config.prompts_per_step
        samples: list[int] = self.train_dataset["sample"][step * size : (step + 1) * size]
        return samples

    def _draw(self, everyone: list[int], step: int) -> StepRecord:
        """This rank's share of as many groups as `everyone`, drawn for `step`."""
        self._drawn_step = step
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
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
            shares = all_gather_object(
                [
                    (n, indices[n - first], g.completions, g.scores, g.logps)
                    for n, g in zip(numbers, groups, strict=True)
                ],
                self._exchange,
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
        return StepRecord(step, trained, list(mine.values()))

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
        return Group(sample, self._engine.encoder.prompt(sample), *record[2:])

    def _refills(self, wanted: Sequence[int]) -> Any:
        """As the parent's, the same on every rank."""
        seed = (self.args.seed, self.drawn_step)
        order = np.random.default_rng(seed).permutation(len(self._samples)).tolist()
        taken = set(wanted)
        yield from (i for i in order if i not in taken)
        while True:
            yield from order

    def _seeds(self, samples: Sequence[Sample], numbers: Any) -> list[list[int]]:
        """By a group's number in the step, whichever rank rolls it out."""
        step = self.drawn_step
        return [
            [rollout_seed(self.args.seed, f"{step}/{n}/{sample.id}", j) for j in range(self._drawn)]
            for sample, n in zip(samples, numbers, strict=True)
        ]

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's; what was drawn for steps that do not come any more is waited for."""
        output = super().train(*args, **kwargs)
        if self._ahead is not None:
            self._ahead.close()
        return output


def _varies(record: _Record) -> bool:
    return bool(np.std([score.reward for score in record[3]]) > EPSILON)


# GRPO over many processes: a sharded or adapted policy, with passes of bounded size.


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
        self.record_metric("importance_ratio", float(ratio[mask].mean()))
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
        self.count_step()
        return loss

    def token_logps(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """TRL's where prompts are not shared: keys are not kept through adapters' wrappers."""
        if self._by_row:
            return GrpoTrainer.token_logps(self, model, *args, **kwargs)
        return super().token_logps(model, *args, **kwargs)

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

"""GRPO on the practice buffer, one process a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pelican.config.recipe import RlConfig
from pelican.engines.base import rollout_seed
from pelican.engines.transformers import Encoded, TransformersEngine
from pelican.monitoring.record import timed
from pelican.records import Sample, Score
from pelican.training.logprobs import add_shared_prefix, shared_logps, split_rows
from pelican.training.sampling import Generation
from pelican.training.trl_private import GrpoTrainer

# Down-sampling of rollouts by variance: many are drawn, those that tell most are trained on.
#
# PODS, "Not All Rollouts are Useful: Down-Sampling Rollouts in LLM Reinforcement Learning" (arXiv
# 2504.13818): advantages are normalised over what is kept, as their published trainer does.


def largest_variance(rewards: Sequence[float], kept: int) -> list[int]:
    """`kept` places, ascending, of the rewards with the largest variance among all such choices.

    Some subset of the smallest and the largest values has it (section 3 of the paper), so only
    `kept` + 1 splits are compared. Of equal ones that with more of the small rewards is taken.
    """
    order = sorted(range(len(rewards)), key=lambda i: (rewards[i], i))
    ranked = [rewards[i] for i in order]

    def spread(low: int) -> float:
        values = [*ranked[:low], *ranked[len(ranked) - (kept - low) :]]
        mean = sum(values) / kept
        return sum((value - mean) ** 2 for value in values)

    # Rounded, so that the order of a sum does not decide between equals.
    low = max(range(kept + 1), key=lambda n: (round(spread(n), 12), n))
    return sorted([*order[:low], *order[len(order) - (kept - low) :]])


# What a step of GRPO is made of: groups of scored completions, and the order of the samples.

# (sample, completion, its number in the group, optimiser step)
Scorer = Callable[[Sample, str, int, int], Score]
EPSILON = 1e-4


@dataclass
class Group:
    """The G completions of one prompt with their scores."""

    sample: Sample
    prompt: Encoded
    completions: list[list[int]]
    scores: list[Score]
    # With which they were drawn, by token; none where the policy of the step drew them.
    logps: list[list[float]] | None = None

    @property
    def rewards(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.array([score.reward for score in self.scores])

    @property
    def has_variance(self) -> bool:
        return bool(self.rewards.std() > EPSILON)

    def down_sampled(self, kept: int) -> Group:
        """The `kept` completions whose rewards vary most."""
        if kept == len(self.completions):
            return self
        rows = largest_variance(self.rewards.tolist(), kept)
        return replace(
            self,
            completions=[self.completions[row] for row in rows],
            scores=[self.scores[row] for row in rows],
            logps=None if self.logps is None else [self.logps[row] for row in rows],
        )

    def advantages(self) -> list[float]:
        """A_i = (R_i - mean) / (std + eps)."""
        rewards = self.rewards
        advantages: list[float] = ((rewards - rewards.mean()) / (rewards.std() + EPSILON)).tolist()
        return advantages


def schedule(samples: int, draws: int, seed: int) -> list[int]:
    """`draws` sample numbers: whole permutations, one after the other.

    Drawn in advance for the whole training, so that a resumed one goes on in the same order; TRL's
    own sampler starts anew at each epoch.
    """
    rounds = -(-draws // samples)
    orders = [np.random.default_rng((seed, i)).permutation(samples) for i in range(rounds)]
    drawn: list[int] = np.concatenate(orders)[:draws].tolist()
    return drawn


@dataclass
class StepRecord:
    """What one rank's optimiser step saw: the groups trained on, and all that were rolled out.

    What was drawn once more with a hint says how hard a sample is no more, so it is apart.
    """

    step: int
    trained: list[Group]
    drawn: list[Group]
    hinted: list[Group] = field(default_factory=list)  # drawn once more, with a hint


# GRPO on the buffer: TRL's GRPOTrainer with Pelican's rollouts, rewards, refill and stop rule.
#
# TRL keeps the optimiser, the clipped loss, the KL term and checkpointing. This module replaces how a
# batch is made: groups whose rewards are all equal give no gradient, so they are dropped and refilled
# (arXiv 2511.16602, difficulty-aware sampling).


class DeliberateGrpoTrainer(GrpoTrainer):
    """GRPOTrainer whose batches are full of groups with variance.

    `samples` is the buffer; the train data set holds indices into it. `on_step` is called with
    every rank's groups after they were rolled out.
    """

    rows_per_pass = 32  # whose log-probabilities are computed together

    def __init__(
        self,
        *args: Any,
        engine: TransformersEngine | Generation,
        samples: Sequence[Sample],
        config: RlConfig,
        scorer: Scorer,
        on_step: Callable[[StepRecord], None],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._engine = engine
        self._samples = samples
        self._config = config
        self._drawn = config.variant.drawn(config.group_size)
        self._scorer = scorer
        self._on_step = on_step
        if self.ref_model is not None and isinstance(engine, TransformersEngine):
            visual = engine.policy.model.visual
            if visual.forward.__name__ == "_look_up":
                # The frozen tower is the same in both: share its features.
                self.ref_model.model.visual = visual
        add_shared_prefix(self.model, config.group_size, self.temperature)
        if self.ref_model is not None:
            add_shared_prefix(
                self.accelerator.unwrap_model(self.ref_model), config.group_size, self.temperature
            )
            self.ref_model.eval()

    def next_batch(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """One batch of completions is one optimiser step; the rows of a group stay together."""
        wanted = [row["sample"] for row in rows[:: self._config.group_size]]
        record = self._collect(wanted)
        size = self._config.group_size
        record.trained = [group.down_sampled(size) for group in record.trained]
        self._on_step(record)
        return self._batch(record.trained)

    def _collect(self, wanted: list[int]) -> StepRecord:
        """As many groups as `wanted`, those without variance replaced while refills last."""
        kept: list[Group] = []
        flat: list[Group] = []
        drawn: list[Group] = []
        self._hinted: list[Group] = []
        refills = self._refills(wanted)
        # A few more at once are cheaper than another round of decoding.
        more = round((self._config.oversample - 1) * len(wanted))
        for attempt in range(1 + self._config.refill):
            missing = len(wanted) - len(kept)
            indices = wanted if attempt == 0 else []
            indices = [*indices, *(next(refills) for _ in range(missing + more - len(indices)))]
            groups = self._roll_out(indices, attempt)
            drawn += groups
            groups = self._helped(groups, attempt)
            kept += [group for group in groups if group.has_variance]
            flat = [group for group in groups if not group.has_variance]
            if len(kept) >= len(wanted):
                break
        # Refills ran out: the rest is flat, which adds its KL term and no advantage.
        trained = (kept + flat)[: len(wanted)]
        return StepRecord(self.drawn_step, trained, drawn, self._hinted)

    @property
    def drawn_step(self) -> int:
        """The optimiser step that completions are drawn for."""
        return int(self.state.global_step)

    def _helped(self, groups: Sequence[Group], attempt: int) -> list[Group]:
        """The groups, or others in their place; nobody helps."""
        return list(groups)

    def _refills(self, wanted: Sequence[int]) -> Iterator[int]:
        """Samples of the buffer in an order of this step and rank, those not `wanted` first."""
        seed = (self.args.seed, self.drawn_step, self.accelerator.process_index)
        order = np.random.default_rng(seed).permutation(len(self._samples)).tolist()
        yield from (i for i in order if i not in wanted)
        while True:
            yield from order

    def _seeds(self, samples: Sequence[Sample], attempt: Any) -> list[list[int]]:
        """Of every rollout, by step, attempt, rank and place."""
        name = f"{self.drawn_step}/{attempt}"
        base = rollout_seed(self.args.seed, name, self.accelerator.process_index)
        return [
            [rollout_seed(base, f"{place}/{sample.id}", j) for j in range(self._drawn)]
            for place, sample in enumerate(samples)
        ]

    def _roll_out(self, indices: list[int], attempt: Any) -> list[Group]:
        """`attempt` names the draw for `_seeds`."""
        samples = [self._samples[i] for i in indices]
        return self._roll_out_samples(samples, self._seeds(samples, attempt))

    def _roll_out_samples(self, samples: Sequence[Sample], seeds: list[list[int]]) -> list[Group]:
        """Rolled out and scored."""
        step = self.drawn_step
        prompts = [self._engine.encoder.prompt(sample) for sample in samples]
        with timed("generate"):
            completions, logps = self._complete(samples, prompts, seeds)
        return [
            Group(
                sample,
                prompt,
                ids,
                [
                    self._scorer(sample, self._engine.encoder.decode(tokens), j, step)
                    for j, tokens in enumerate(ids)
                ],
                drawn_with,
            )
            for sample, prompt, ids, drawn_with in zip(
                samples, prompts, completions, logps, strict=True
            )
        ]

    def _complete(
        self,
        samples: Sequence[Sample],
        prompts: Sequence[Encoded],
        seeds: Sequence[Sequence[int]],
    ) -> tuple[list[list[list[int]]], Sequence[list[list[float]] | None]]:
        """Token ids per sample and seed, and what `Group.logps` gets."""
        assert isinstance(self._engine, TransformersEngine)
        training = self.model.training
        self.model.eval()
        completions = self._engine.complete(prompts, self._config.sampling, seeds)
        self.model.train(training)
        return completions, [None] * len(samples)

    def _batch(self, groups: list[Group]) -> dict[str, Any]:
        """The tensors that TRL's loss reads; one row per completion."""
        device = self.accelerator.device
        encoder = self._engine.encoder
        rows = [(group, ids) for group in groups for ids in group.completions]
        prompts = [group.prompt for group, _ in rows]
        prompt_ids, prompt_mask = encoder.pad([prompt.ids for prompt in prompts], "left")
        completion_ids, completion_mask = encoder.pad([ids for _, ids in rows], "right")
        advantages = [a for group in groups for a in group.advantages()]
        # A sampled image token would be taken for an image: only the prompt's are.
        types = torch.cat(
            [encoder.token_types(prompt_ids), torch.zeros_like(completion_ids, dtype=torch.int32)],
            1,
        )
        batch: dict[str, Any] = {
            "prompt_ids": prompt_ids.to(device),
            "prompt_mask": prompt_mask.to(device),
            "completion_ids": completion_ids.to(device),
            "completion_mask": completion_mask.to(device),
            "advantages": torch.tensor(advantages, dtype=torch.float32, device=device),
            "num_items_in_batch": self.accelerator.gather(completion_mask.sum().to(device)).sum(),
            "mm_token_type_ids": types.to(device),
            "num_images": [len(prompt.images) for prompt in prompts],
        }
        batch |= self._images(prompts)
        if self.ref_model is not None:
            batch["ref_per_token_logps"] = self._reference_logps(batch)
        return batch

    def _images(self, prompts: Sequence[Encoded]) -> dict[str, Tensor]:
        inputs = self._engine.encoder.image_inputs(prompts)
        return {name: value.to(self.accelerator.device) for name, value in inputs.items()}

    def token_logps(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """TRL's; but each prompt is computed once for its group, if its keys can be kept.

        Gradient checkpointing keeps none, so then it is TRL's own.
        """
        if self.args.gradient_checkpointing:
            return super().token_logps(model, input_ids, attention_mask, logits_to_keep, **kwargs)
        logps, entropies = shared_logps(
            model,
            input_ids,
            attention_mask,
            logits_to_keep,
            group=self._config.group_size,
            at_a_time=self.rows_per_pass,
            types=kwargs["mm_token_type_ids"],
            images=split_rows(
                kwargs.get("pixel_values"), kwargs.get("image_grid_thw"), kwargs["num_images"]
            ),
        )
        return logps, entropies, None

    @torch.no_grad()
    def _reference_logps(self, batch: dict[str, Any]) -> Tensor:
        return self._logps_of(self.ref_model, batch)

    def _logps_of(self, model: Any, batch: dict[str, Any]) -> Tensor:
        """Log-probabilities of the completions' tokens, shape [rows, width of completions]."""
        logps, _, _ = self.token_logps(
            model,
            torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1),
            torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1),
            batch["completion_ids"].size(1),
            pixel_values=batch.get("pixel_values"),
            image_grid_thw=batch.get("image_grid_thw"),
            num_images=batch["num_images"],
            mm_token_type_ids=batch["mm_token_type_ids"],
        )
        return logps

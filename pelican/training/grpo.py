"""GRPO on the practice buffer: TRL's trainer with Pelican's completions, rewards and dynamic sampling.

TRL keeps the optimiser, the clipped loss, the KL term and checkpoints. `DeliberateGrpoTrainer` makes the
batches. Read top-down: a batch is made in `next_batch`, its groups come from `draw_groups`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pelican.base.process import all_gather_object
from pelican.config.recipe import RlConfig, VarianceOf
from pelican.engines.base import rollout_seed
from pelican.engines.transformers import Encoded, TransformersEngine
from pelican.engines.transformers_private import has_replaced_forward
from pelican.monitoring.record import timed
from pelican.records import Sample, Score
from pelican.training.hints import add_hint
from pelican.training.logprobs import add_shared_prefix_logps, shared_prefix_logps, split_rows
from pelican.training.sampling import Sampler
from pelican.training.trl_private import GrpoTrainer

# (sample, completion, its number in the group, optimiser step)
Scorer = Callable[[Sample, str, int, int], Score]
EPSILON = 1e-4  # values whose standard deviation is less are equal


@dataclass
class Group:
    """The completions of one prompt with their scores."""

    sample: Sample
    prompt: Encoded
    completions: list[list[int]]
    scores: list[Score]
    # Of every token when it was sampled; None if the step's own policy sampled it.
    logps: list[list[float]] | None = None
    hinted: bool = False  # whether the prompt has a hint
    variance_of: VarianceOf = "reward"
    carried: bool = False  # whether the step before drew it, whose policy `logps` are of

    @property
    def tokens(self) -> int:
        """Of the prompt and the completions."""
        return len(self.prompt.ids) + sum(map(len, self.completions))

    @property
    def rewards(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """[completions]"""
        return np.array([score.reward for score in self.scores])

    @property
    def has_variance(self) -> bool:
        """Whether the completions differ in what `rl.variance_of` names.

        If their rewards are all equal, all advantages are 0, and the group gives no gradient.
        """
        return differ(self.scores, self.variance_of)

    def down_sampled(self, kept: int) -> Group:
        """The `kept` completions whose rewards differ most."""
        if kept == len(self.completions):
            return self
        rows = largest_variance(self.rewards.tolist(), kept)
        return replace(
            self,
            completions=[self.completions[row] for row in rows],
            scores=[self.scores[row] for row in rows],
            logps=None if self.logps is None else [self.logps[row] for row in rows],
        )

    def advantages(self, divisor: float | None = None) -> list[float]:
        """A_i = (R_i - mean) / divisor, by default the group's standard deviation + eps.

        It is that of these completions themselves, as the paper writes it. TRL takes them for a sample
        of more, which of 8 completions makes advantages smaller by a factor of 0.94.
        """
        rewards = self.rewards
        by = rewards.std() + EPSILON if divisor is None else divisor
        advantages: list[float] = ((rewards - rewards.mean()) / by).tolist()
        return advantages


@dataclass
class StepRecord:
    """The groups of one rank in one optimiser step."""

    step: int
    trained: list[Group]  # as many as the rank's prompts, each with variance if it can be
    drawn: list[Group]  # all that this rank rolled out
    # Rolled out once more, with a hint. Not in `drawn`, because a success rate with hints does not
    # say how hard a sample is.
    hinted: list[Group] = field(default_factory=list)
    # Tokens of this rank, prompts once a group, that the policy read again for groups of the step before.
    read_again: int = 0

    @property
    def carried(self) -> int:
        """How many of `trained` the step before drew."""
        return sum(group.carried for group in self.trained)


@dataclass(frozen=True)
class Rollouts:
    """A group as ranks exchange it: the sample is named by its number, so no image is sent."""

    number: int  # of the group, among all that the ranks draw for the step
    index: int  # of the sample
    completions: list[list[int]]
    scores: list[Score]
    logps: list[list[float]] | None
    hinted: bool

    @property
    def tokens(self) -> int:
        return sum(map(len, self.completions))


class DeliberateGrpoTrainer(GrpoTrainer):
    """GRPOTrainer whose batches are full of groups with variance."""

    rows_per_pass = 32  # completions whose log-probabilities are computed in one pass

    def __init__(
        self,
        *args: Any,
        engine: TransformersEngine | Sampler,
        samples: Sequence[Sample],
        config: RlConfig,
        scorer: Scorer,
        on_step: Callable[[StepRecord], None],
        **kwargs: Any,
    ) -> None:
        """A trainer of a policy that every process has whole.

        Args:
            args: of TRL's GRPOTrainer, as `kwargs`. `train_dataset` has a column `sample` with
                indices into `samples`, in the order of `schedule`.
            engine: draws completions, and encodes prompts.
            samples: the practice buffer.
            config: the recipe's section `rl`.
            scorer: the reward of a completion.
            on_step: called on every rank with its groups of a step, before the step is trained.
            kwargs: see `args`.
        """
        super().__init__(*args, **kwargs)
        self._engine = engine
        self._samples = samples
        self._config = config
        self._scorer = scorer
        self._on_step = on_step
        self._surplus: list[Rollouts] = []  # of the step before
        self._exchange: Any = None  # the process group for groups; None is the default one
        if self.ref_model is not None and isinstance(engine, TransformersEngine):
            visual = engine.policy.model.visual
            if has_replaced_forward(visual):
                # The frozen tower is the same in both, so they share its cached features.
                self.ref_model.model.visual = visual
        add_shared_prefix_logps(self.model, config.group_size, self.temperature)
        if self.ref_model is not None:
            add_shared_prefix_logps(
                self.accelerator.unwrap_model(self.ref_model), config.group_size, self.temperature
            )
            self.ref_model.eval()

    def next_batch(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Groups for this rank's `rows`, as tensors; the rows of a group stand together."""
        size = self._config.group_size
        record = self.draw([row["sample"] for row in rows[::size]])
        record.trained = [group.down_sampled(size) for group in record.trained]
        self._on_step(record)
        return self._tensors(record.trained)

    # Dynamic sampling: groups whose rewards are all equal are replaced by groups of other samples (DPPO,
    # arXiv 2511.16602, difficulty-aware sampling; DAPO, arXiv 2503.14476, section 3.2). The ranks do it
    # together: which groups a step has depends on the seed and the step, not on the number of ranks, so
    # a training goes on with another number of them.

    def draw(self, samples: Sequence[int]) -> StepRecord:
        """Draw this rank's groups of the current step. Collective.

        Args:
            samples: indices of the samples that the schedule has for this rank.
        """
        of_all = list(chain.from_iterable(all_gather_object(list(samples), self._exchange)))
        return self.draw_groups(of_all, int(self.state.global_step))

    def draw_groups(self, samples: Sequence[int], step: int) -> StepRecord:
        """Roll out groups until as many as `samples` have variance, and deal them to the ranks.

        Collective. At most `rl.refill` times more groups are drawn for those without variance. Where
        that was not enough, groups without variance fill the batch: they add a KL term alone.

        Args:
            samples: the step's indices of samples, of all ranks, the same on every rank.
            step: the optimiser step that the groups are for.
        """
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        record = StepRecord(step, [], [])
        mine: dict[int, Group] = {}
        kept, self._surplus = self._surplus, []
        flat: list[Rollouts] = []
        # A few more at once are cheaper than another round of decoding.
        more = round((self._config.oversample - 1) * len(samples))
        order = chain(samples, self.replacements(samples, step))
        first, count = 0, len(samples) - len(kept) + more
        for _ in range(1 + self._config.refill):
            indices = dict(enumerate(islice(order, count), first))
            own = {number: index for number, index in indices.items() if number % world == rank}
            groups = self._roll_out(own, record)
            mine |= groups
            new = self._gather(own, groups)
            kept += [one for one in new if self._varies(one)]
            flat = [one for one in new if not self._varies(one)]
            if len(kept) >= len(samples):
                break
            first, count = first + count, len(samples) - len(kept) + more
        chosen = (kept + flat)[: len(samples)]
        for one in deal(chosen, rank, world):
            record.trained.append(mine.get(one.number) or self._rebuild(one))
        if record.carried:
            record.read_again = sum(group.tokens for group in record.trained)
        if self._config.keep_surplus:
            most = len(samples) // 2
            self._keep_surplus(kept[len(samples) :][:most], mine, record)
        return record

    # What a step has no room for, `rl.keep_surplus`: the policy has moved when it is trained on, so the ratio
    # of the clipped loss is to the one that drew it.

    def _keep_surplus(
        self, surplus: Sequence[Rollouts], mine: Mapping[int, Group], record: StepRecord
    ) -> None:
        """Keep these groups for the next step. Collective.

        None is kept over a checkpoint, so that a training resumes as it would have gone on.

        Args:
            surplus: in their order, the same on every rank.
            mine: the groups that this rank rolled out, by number.
            record: of the step, whose `read_again` grows.
        """
        if (record.step + 1) % self.args.save_steps == 0:
            return
        own = {one.number: mine[one.number] for one in surplus if one.number in mine}
        record.read_again += sum(group.tokens for group in own.values())
        shares = all_gather_object({n: self._logps_of(group) for n, group in own.items()})
        logps = {number: rows for share in shares for number, rows in share.items()}
        self._surplus = [
            # A number that no group of the next step has.
            replace(one, number=-1 - place, logps=logps[one.number])
            for place, one in enumerate(surplus)
        ]

    @torch.no_grad()
    def _logps_of(self, group: Group) -> list[list[float]]:
        """Log-probabilities of a group's tokens by the policy as it is now."""
        rows = self._completion_logps(self.model, self._inputs([group])).tolist()
        return [row[: len(ids)] for row, ids in zip(rows, group.completions, strict=True)]

    @torch.no_grad()
    def _old_logps(self, batch: dict[str, Any], groups: Sequence[Group]) -> Tensor:
        """[rows, width]: by the policy that drew each completion."""
        old = self._completion_logps(self.model, batch)
        for place, group in enumerate(groups):
            if group.carried:
                for row, logps in enumerate(group.logps or (), place * len(group.completions)):
                    old[row, : len(logps)] = torch.tensor(logps, device=old.device)
        return old

    def _varies(self, one: Rollouts) -> bool:
        return differ(one.scores, self._config.variance_of)

    def replacements(self, samples: Sequence[int], step: int) -> Iterator[int]:
        """Indices of the buffer in an order of this step, those not in `samples` first; endless."""
        rng = np.random.default_rng((self.args.seed, step))
        order = rng.permutation(len(self._samples)).tolist()
        taken = set(samples)
        yield from (i for i in order if i not in taken)
        while True:
            yield from order

    def _roll_out(self, indices: dict[int, int], record: StepRecord) -> dict[int, Group]:
        """Groups by number, noted in `record`.

        With `rl.variant.hints` a group without a success is drawn once more with a hint, which takes
        its place if it has variance.

        Args:
            indices: of the samples, by the groups' numbers in the step.
            record: of the step; `drawn` and `hinted` get the groups.
        """
        samples = {number: self._samples[index] for number, index in indices.items()}
        groups = self._complete(samples, record.step)
        record.drawn += groups.values()
        if not self._config.variant.hints:
            return groups
        with_hints = {
            number: sample
            for number, group in groups.items()
            if not any(score.success for score in group.scores)
            and (sample := add_hint(group.sample)) is not None
        }
        again = self._complete(with_hints, record.step, hinted=True)
        record.hinted += again.values()
        return groups | {number: group for number, group in again.items() if group.has_variance}

    def _complete(
        self, samples: dict[int, Sample], step: int, hinted: bool = False
    ) -> dict[int, Group]:
        """Completions of `samples` with their scores, by the groups' numbers in the step.

        The seed of a completion depends on step, number and sample, whichever rank draws it.
        """
        if not samples:
            return {}
        rollouts = self._config.variant.drawn(self._config.group_size)
        seeds = [
            [
                rollout_seed(self.args.seed, f"{step}/{number}{'/hint' * hinted}/{sample.id}", i)
                for i in range(rollouts)
            ]
            for number, sample in samples.items()
        ]
        prompts = [self._engine.encoder.prompt(sample) for sample in samples.values()]
        with timed("generate"):
            completions, logps = self.complete(list(samples.values()), prompts, seeds)
        decode = self._engine.encoder.decode
        groups: dict[int, Group] = {}
        for place, (number, sample) in enumerate(samples.items()):
            ids = completions[place]
            scores = [self._scorer(sample, decode(row), i, step) for i, row in enumerate(ids)]
            of = self._config.variance_of
            groups[number] = Group(sample, prompts[place], ids, scores, logps[place], hinted, of)
        return groups

    def answer(self, samples: Sequence[Sample], rollouts: int, scorer: Scorer) -> list[Group]:
        """`rollouts` answers to each of this rank's held-out `samples`, by the policy as it is now.

        Nothing is trained on. The seeds are the same each time, and no more is decoded at once than in a
        step. Collective.
        """
        self.update_sampler()
        step, groups = int(self.state.global_step), []
        at_once = self._config.prompts_per_step * self._config.group_size
        chunk = max(1, at_once // (self.accelerator.num_processes * rollouts))
        decode = self._engine.encoder.decode
        for start in range(0, len(samples), chunk):
            part = samples[start : start + chunk]
            prompts = [self._engine.encoder.prompt(sample) for sample in part]
            seeds = [
                [rollout_seed(self.args.seed, f"probe/{sample.id}", i) for i in range(rollouts)]
                for sample in part
            ]
            completions, _ = self.complete(part, prompts, seeds)
            for sample, prompt, rows in zip(part, prompts, completions, strict=True):
                scores = [scorer(sample, decode(row), i, step) for i, row in enumerate(rows)]
                groups.append(Group(sample, prompt, rows, scores))
        return groups

    def update_sampler(self) -> None:
        """Bring what completes to the policy's weights; here it is the policy itself. Collective."""

    def complete(
        self,
        samples: Sequence[Sample],
        prompts: Sequence[Encoded],
        seeds: Sequence[Sequence[int]],
    ) -> tuple[list[list[list[int]]], Sequence[list[list[float]] | None]]:
        """Completions by the policy, one per sample and seed.

        Returns:
            Their token ids, and what `Group.logps` gets of every sample.
        """
        assert isinstance(self._engine, TransformersEngine)
        training = self.model.training
        self.model.eval()
        completions = self._engine.complete(prompts, self._config.sampling, seeds)
        self.model.train(training)
        return completions, [None] * len(samples)

    def _gather(self, indices: dict[int, int], groups: dict[int, Group]) -> list[Rollouts]:
        """The groups that all ranks have just rolled out, by number. Collective."""
        own = [
            Rollouts(n, indices[n], g.completions, g.scores, g.logps, g.hinted)
            for n, g in groups.items()
        ]
        of_all = chain.from_iterable(all_gather_object(own, self._exchange))
        return sorted(of_all, key=lambda one: one.number)

    def _rebuild(self, one: Rollouts) -> Group:
        """A group that another rank rolled out."""
        sample = self._samples[one.index]
        if one.hinted:
            sample = add_hint(sample) or sample
        prompt = self._engine.encoder.prompt(sample)
        return Group(
            sample,
            prompt,
            one.completions,
            one.scores,
            one.logps,
            one.hinted,
            self._config.variance_of,
            carried=one.number < 0,
        )

    # Tensors of a step, and the log-probabilities that TRL's loss asks for.

    def _inputs(self, groups: Sequence[Group]) -> dict[str, Any]:
        """What the model reads, one row per completion."""
        device = self.accelerator.device
        encoder = self._engine.encoder
        rows = [(group, ids) for group in groups for ids in group.completions]
        prompts = [group.prompt for group, _ in rows]
        prompt_ids, prompt_mask = encoder.pad([prompt.ids for prompt in prompts], "left")
        completion_ids, completion_mask = encoder.pad([ids for _, ids in rows], "right")
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
            "mm_token_type_ids": types.to(device),
            "num_images": [len(prompt.images) for prompt in prompts],
        }
        return batch | self._images(prompts)

    def _tensors(self, groups: list[Group]) -> dict[str, Any]:
        """What TRL's loss reads (`GrpoTrainer.next_batch`), one row per completion."""
        device, batch = self.accelerator.device, self._inputs(groups)
        divisor = self._divisor(groups)
        advantages = [a for group in groups for a in group.advantages(divisor)]
        batch["advantages"] = torch.tensor(advantages, dtype=torch.float32, device=device)
        batch["num_items_in_batch"] = self.accelerator.gather(batch["completion_mask"].sum()).sum()
        if self._config.mask_truncated:
            # Of the loss alone: TRL multiplies it with the mask, where a tool's words would be 0.
            end = self._engine.encoder.eos_token_id
            whole = [ids[-1:] == [end] for group in groups for ids in group.completions]
            kept = torch.tensor(whole, device=device).int().unsqueeze(1)
            batch["tool_mask"] = kept.expand(-1, batch["completion_ids"].size(1))
        if any(group.carried for group in groups):
            batch["old_per_token_logps"] = self._old_logps(batch, groups)
        if self.ref_model is not None:
            batch["ref_per_token_logps"] = self._reference_logps(batch)
        return batch

    def _divisor(self, groups: Sequence[Group]) -> float | None:
        """What advantages are divided by; None: each group's own deviation. Collective."""
        match self._config.scale_rewards:
            case "group":
                return None
            case "none":
                return 1.0
            case "batch":
                rewards = [reward for group in groups for reward in group.rewards.tolist()]
                of_all = list(chain.from_iterable(all_gather_object(rewards)))
                return float(np.std(of_all)) + EPSILON

    def _images(self, prompts: Sequence[Encoded]) -> dict[str, Tensor]:
        """`pixel_values` [patches, values], `image_grid_thw` [images, 3]; empty without images."""
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
        """As the parent's; but each prompt is computed once for its group.

        With gradient checkpointing each completion computes its own, because no keys are kept.
        """
        if self.args.gradient_checkpointing:
            return super().token_logps(model, input_ids, attention_mask, logits_to_keep, **kwargs)
        logps, entropies = shared_prefix_logps(
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
        """[rows, width]"""
        return self._completion_logps(self.ref_model, batch)

    def _completion_logps(self, model: Any, batch: dict[str, Any]) -> Tensor:
        """`token_logps` of a batch's completions by `model`, [rows, width]."""
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


def schedule(samples: int, draws: int, seed: int) -> list[int]:
    """`draws` sample numbers: whole permutations of `samples`, one after the other.

    Made in advance for the whole training, because TRL's own sampler starts anew at each epoch and a
    resumed training must go on in the same order.
    """
    rounds = -(-draws // samples)
    orders = [np.random.default_rng((seed, i)).permutation(samples) for i in range(rounds)]
    numbers: list[int] = np.concatenate(orders)[:draws].tolist()
    return numbers


def deal(rollouts: Sequence[Rollouts], rank: int, world: int) -> list[Rollouts]:
    """The groups that `rank` trains on: as many for every rank, and about as many tokens.

    Dealt out by length, to and fro: of lengths 9 8 7 6 and two ranks, 9 6 and 8 7.
    """
    order = sorted(rollouts, key=lambda one: (-one.tokens, one.number))
    rounds = [order[i : i + world] for i in range(0, len(order), world)]
    return [group[rank if turn % 2 == 0 else world - 1 - rank] for turn, group in enumerate(rounds)]


def differ(scores: Sequence[Score], of: VarianceOf) -> bool:
    """Whether the scores of a group differ in `of`."""
    return bool(np.std([float(getattr(score, of)) for score in scores]) > EPSILON)


def largest_variance(rewards: Sequence[float], kept: int) -> list[int]:
    """`kept` places, ascending, of the rewards with the largest variance among all such choices.

    It is PODS, "Not All Rollouts are Useful: Down-Sampling Rollouts in LLM Reinforcement Learning"
    (arXiv 2504.13818): of many completions those that tell most are trained on. Advantages are
    normalised over what is kept, as in the published trainer. Some subset of the smallest and the
    largest values has the largest variance (section 3), so only `kept` + 1 splits are compared. Of
    equal ones that with more of the small rewards is taken.
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

"""train-rl: GRPO on the buffer until the success rates stagnate."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import torch

from pelican.base.process import all_gather_object
from pelican.config import env
from pelican.config.recipe import Recipe, RewardConfig
from pelican.data.frames import read_frame
from pelican.data.lazy import CACHE_BYTES, LazySamples
from pelican.data.pool import load_pool, read_index
from pelican.data.tables import Quarantine
from pelican.engines.base import rollout_seed
from pelican.errors import UserInputError
from pelican.records import Sample, Score
from pelican.rewards import Judge, score
from pelican.stages.job import StageJob
from pelican.stages.stage import Inputs, StageResult, whole_recipe

if TYPE_CHECKING:
    from pelican.engines.transformers import PromptEncoder
    from pelican.training.checkpoints import Losses
    from pelican.training.curve import RlCurve
    from pelican.training.grpo import DeliberateGrpoTrainer, Scorer
    from pelican.training.sampling import Sampler


def run(inputs: Inputs, config: Recipe, job: StageJob) -> StageResult:
    """Inputs: policy, buffer (a filter's output), pool, and held-out questions if RL stops by a probe.

    Writes `checkpoint/` and the curves.
    """
    result = StageResult()
    ids = read_frame(inputs["buffer"] / "buffer.parquet")["sample_id"].to_list()
    if not ids:
        _keep_policy(inputs, job)
        result.notes["skipped"] = "the buffer is empty: every sample is mastered or intractable"
        return result
    judge = job.judge(config.reward, training=True)
    samples: Sequence[Sample]
    if config.parallel.at_scale:
        samples, there = _lazy(inputs, config, job, set(ids), judge)
    else:
        pool = load_pool(
            inputs["pool"],
            max_pixels=config.data.max_pixels,
            ids=set(ids),
            corrections=inputs.corrections(),
        )
        samples, there = practicable(pool.samples, judge), len(pool.samples)
        if job.rank == 0:  # an image may be gone since its rollouts
            result.counts["quarantined"] = len(ids) - there
            job.log_left_out(pool.quarantine, ids)
    if job.rank == 0:
        result.counts["left_to_judge"] = there - len(samples)
    if not samples:
        _keep_policy(inputs, job)
        result.notes["skipped"] = "every sample of the buffer needs a judge, which RL does without"
        return result
    _train(inputs, config, job, result, samples, judge)
    return result


def _lazy(
    inputs: Inputs, config: Recipe, job: StageJob, ids: set[str], judge: Judge | None
) -> tuple[LazySamples, int]:
    """What can be practised, read when needed, and how many samples the buffer has."""
    from pelican.training.grpo import schedule

    index = read_index(inputs["pool"], inputs.corrections())
    entries = index.with_ids(ids)
    kept = [entry for entry in entries if _is_scored(entry.answer_kind, judge)]
    rl = config.rl
    seed = seed_of(config, job.loop)
    # The places of the schedule that this rank rolls out.
    order = schedule(len(kept), rl.max_steps * rl.prompts_per_step, seed) if kept else []
    mine = order[job.rank :: job.world_size]
    pixels = config.data.max_pixels
    cache = env.image_cache_bytes(CACHE_BYTES)
    lazy = LazySamples(index, kept, max_pixels=pixels, order=mine, cache_bytes=cache)
    return lazy, len(entries)


def practicable(samples: Sequence[Sample], judge: Judge | None) -> list[Sample]:
    """The samples that RL can practise: with a judge all, else those without an open answer."""
    return [sample for sample in samples if _is_scored(sample.answer.kind, judge)]


def _is_scored(answer_kind: str, judge: Judge | None) -> bool:
    """Without a judge no free text is right, so its reward would be the format's alone."""
    return judge is not None or answer_kind != "open"


def training_scorer(config: RewardConfig, seed: int, judge: Judge | None) -> Scorer:
    """A function that scores RL's own completions by the recipe's reward.

    The ablation `reward.flip` flips other ones at every step, like noise.
    """

    def scorer(sample: Sample, completion: str, index: int, step: int) -> Score:
        return score(
            sample,
            completion,
            config,
            index=index,
            seed=rollout_seed(seed, "flips", step),
            judge=judge,
        )

    return scorer


def _keep_policy(inputs: Inputs, job: StageJob) -> None:
    """Instead of training, give the policy on as it is."""
    if job.rank == 0:
        shutil.copytree(inputs["policy"], job.output("checkpoint"), dirs_exist_ok=True)


def _train(
    inputs: Inputs,
    config: Recipe,
    job: StageJob,
    result: StageResult,
    samples: Sequence[Sample],
    judge: Judge | None,
) -> None:
    from datasets import Dataset

    from pelican.engines.transformers import load_model
    from pelican.training.arguments import grpo_arguments
    from pelican.training.checkpoints import (
        TRAINER_STATE,
        KeepCheckpoints,
        Losses,
        check_world_size,
        last_checkpoint,
        save_trained,
        train,
    )
    from pelican.training.curve import STATE, RlCurve
    from pelican.training.distributed import load_for_training
    from pelican.training.grpo import schedule
    from pelican.training.probe import Answered, HeldOutProbe
    from pelican.training.sampling import PROBES, open_sampler

    rl, start = config.rl, inputs["policy"]
    if not torch.cuda.is_available():
        torch.set_num_threads(rl.threads)

    def report(step: int, reward: float) -> None:
        job.progress(step, rl.max_steps, "steps", reward=round(reward, 4))

    def keep(checkpoint: str) -> None:
        job.keep(f"work/trainer/{checkpoint}", last=(TRAINER_STATE, STATE))

    held_out = _held_out(inputs, config, job, judge) if rl.stop.probes else []
    honest = training_scorer(config.reward.honest, config.seed, judge)

    def ask() -> list[Answered]:
        groups = trainer.answer(held_out, rl.stop.probe.samples, honest)
        return [Answered.of(group) for group in groups]

    probe = HeldOutProbe(rl, ask, all_gather_object) if rl.stop.probes else None
    curve = RlCurve(rl, all_gather_object, report, probe)
    losses = Losses(lambda *_: None)
    work = job.restored("work/trainer")
    seed = seed_of(config, job.loop)
    order = schedule(len(samples), rl.max_steps * rl.prompts_per_step, seed)
    args = grpo_arguments(config, work, job.world_size, seed)
    if config.parallel.at_scale:
        policy, encoder = load_for_training(config, start, args)
    else:
        policy, encoder = load_model(config.model, start)
    served = rl.generation.where == "server"
    probes = order[job.rank :: job.world_size][:PROBES] if served else []
    place = job.output("work/generation")
    serving = whole_recipe(config) if served else config
    with open_sampler(serving, start, place, encoder, [samples[i] for i in probes]) as sampler:
        trainer = _trainer(
            config,
            start,
            policy,
            encoder,
            sampler,
            args=args,
            train_dataset=Dataset.from_dict({"prompt": [""] * len(order), "sample": order}),
            callbacks=[curve, losses, KeepCheckpoints(keep)],
            samples=samples,
            scorer=training_scorer(config.reward, seed, judge),
            on_step=curve.add,
        )
        checkpoint = last_checkpoint(work, STATE)
        check_world_size(config, checkpoint, job.world_size)
        if checkpoint is not None:
            curve.load(checkpoint)
            losses.restore(checkpoint)
        train(trainer, checkpoint)
    save_trained(trainer, encoder.processor, job.output("checkpoint"), config)
    if job.rank == 0:
        result.counts.update({"samples": len(samples), "steps": trainer.state.global_step})
        _write(job, result, curve, losses)


def _held_out(inputs: Inputs, config: Recipe, job: StageJob, judge: Judge | None) -> list[Sample]:
    """This rank's share of the probe's questions. Raises UserInputError if there is none for a probe."""
    from pelican.training.probe import draw_probe

    index, quarantine = read_index(inputs["probe"]), Quarantine()
    scored = [entry for entry in index.entries if _is_scored(entry.answer_kind, judge)]
    drawn = draw_probe(scored, config.rl.stop.probe.prompts, config.seed)
    samples = list(index.load(drawn, max_pixels=config.data.max_pixels, quarantine=quarantine))
    job.log_left_out(quarantine)
    if not samples:
        raise UserInputError(
            "rl.stop.of=probe: no family of data.dev has two questions that can be asked; add some, or"
            " stop by samples"
        )
    return samples[job.rank :: job.world_size]


def _trainer(
    config: Recipe,
    start: Path,
    policy: Any,
    encoder: PromptEncoder,
    sampler: Sampler | None,
    **arguments: Any,
) -> DeliberateGrpoTrainer:
    """TRL's trainer with the policy spread over the processes, or whole in each. `start`: its weights."""
    from pelican.engines.transformers import TransformersEngine
    from pelican.training.grpo_scale import ScaledGrpoTrainer
    from pelican.training.variants import trainer_of

    arguments["processing_class"] = encoder.processor
    if config.parallel.at_scale:
        return ScaledGrpoTrainer(
            policy,
            recipe=config,
            checkpoint=start,
            encoder=encoder,
            sampler=sampler,
            **arguments,
        )
    policy.config.name_or_path = str(start)  # where TRL loads the reference
    engine = TransformersEngine(policy, encoder, batch_size=1)
    return trainer_of(config.rl)(policy, engine=engine, config=config.rl, **arguments)


def _write(job: StageJob, result: StageResult, curve: RlCurve, losses: Losses) -> None:
    """The curves, and what the manifest says of them."""
    curve.write(job.output("curve.parquet"), job.output("stagnation.parquet"))
    pl.DataFrame(losses.rows).write_parquet(job.output("optimiser.parquet"))
    result.counts.update(curve.totals)
    _metrics(result, curve.rows)
    flat, trained = curve.totals["groups_trained_flat"], curve.totals["groups_trained"]
    result.add_metric("trained_flat", flat / max(1, trained))
    result.notes["stopped"] = curve.stop_reason or "max_steps"
    if curve.stagnation:
        result.add_metric("stagnation", curve.stagnation[-1]["mean_ts"])
    if curve.probe is not None:
        curve.probe.write(job.output("probe.parquet"))
        trend = curve.probe.tracker.trend()
        if trend is not None:  # in points of 100, over 100 steps
            result.add_metric("probe_slope", 1e4 * trend.slope)
            result.add_metric("probe_error", 1e4 * trend.error)


def seed_of(recipe: Recipe, loop: int) -> int:
    """The seed of RL in one loop; it differs from loop to loop, so that each has another order of
    samples.
    """
    return 1000 * recipe.seed + 10 * loop + recipe.rl.seed


def _metrics(result: StageResult, rows: list[dict[str, Any]]) -> None:
    """Mean reward and format over the first and the last ten steps."""
    last = max(row["step"] for row in rows)
    for name, kept in (
        ("first", [r for r in rows if r["step"] <= 10]),
        ("last", [r for r in rows if r["step"] > last - 10]),
    ):
        groups = sum(r["groups"] for r in kept)
        for key in ("reward", "success_rate", "format", "think_chars"):
            result.add_metric(f"{key}/{name}", sum(r[key] * r["groups"] for r in kept) / groups)

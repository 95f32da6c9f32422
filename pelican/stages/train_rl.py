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
from pelican.data.lazy import CACHE_BYTES, LazySamples
from pelican.data.pool import load_pool, read_index
from pelican.engines.base import rollout_seed
from pelican.records import OpenAnswer, Sample, Score
from pelican.rewards import Judge, judge_of, score
from pelican.stages.runner import StageContext

if TYPE_CHECKING:
    from pelican.engines.transformers import PromptEncoder
    from pelican.training.checkpoints import Losses
    from pelican.training.curve import RlCurve
    from pelican.training.grpo import DeliberateGrpoTrainer, Scorer
    from pelican.training.sampling import Generation


def run(context: StageContext) -> None:
    """Inputs: policy, buffer (a filter's output), pool. Writes `checkpoint/` and the curves."""
    ids = pl.read_parquet(context.input("buffer") / "buffer.parquet")["sample_id"].to_list()
    if not ids:
        _keep_policy(context, "the buffer is empty: nothing is neither mastered nor intractable")
        return
    judge = judge_of(context.recipe.reward, training=True, store=context.store)
    samples: Sequence[Sample]
    if context.recipe.parallel.at_scale:
        samples, there = _lazy(context, set(ids), judge)
    else:
        pool = load_pool(
            context.input("pool"),
            max_pixels=context.recipe.data.max_pixels,
            ids=set(ids),
            corrections=context.corrections(),
        )
        samples, there = practicable(pool.samples, judge), len(pool.samples)
        if context.rank == 0:  # an image may be gone since its rollouts
            context.counts["quarantined"] = len(ids) - there
            context.left_out(pool.quarantine, ids)
    if context.rank == 0:
        context.counts["left_to_judge"] = there - len(samples)
    if not samples:
        _keep_policy(context, "every sample of the buffer needs a judge, which RL does without")
        return
    _train(context, samples, judge)


def _lazy(context: StageContext, ids: set[str], judge: Judge | None) -> tuple[LazySamples, int]:
    """What can be practised, read when needed, and how many samples the buffer has."""
    from pelican.training.grpo import schedule

    index = read_index(context.input("pool"), context.corrections())
    entries = index.with_ids(ids)
    kept = [e for e in entries if judge is not None or e.answer_kind != "open"]
    rl = context.recipe.rl
    seed = seed_of(context.recipe, context.spec.loop)
    # The places of the schedule that this rank rolls out.
    order = schedule(len(kept), rl.max_steps * rl.prompts_per_step, seed) if kept else []
    mine = order[context.rank :: context.world_size]
    pixels = context.recipe.data.max_pixels
    cache = env.image_cache_bytes(CACHE_BYTES)
    lazy = LazySamples(index, kept, max_pixels=pixels, order=mine, cache_bytes=cache)
    return lazy, len(entries)


def practicable(samples: Sequence[Sample], judge: Judge | None) -> list[Sample]:
    """Without a judge no free text is right, so its reward would be the format's alone."""
    return [s for s in samples if judge is not None or not isinstance(s.answer, OpenAnswer)]


def training_scorer(config: RewardConfig, seed: int, judge: Judge | None) -> Scorer:
    """The reward of RL's own completions: other ones are flipped at every step, as noise is."""

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


def _keep_policy(context: StageContext, why: str) -> None:
    """No training: the policy goes on as it is."""
    context.notes["skipped"] = why
    if context.rank == 0:
        shutil.copytree(context.input("policy"), context.output("checkpoint"), dirs_exist_ok=True)


def _train(context: StageContext, samples: Sequence[Sample], judge: Judge | None) -> None:
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
    )
    from pelican.training.curve import STATE, RlCurve
    from pelican.training.distributed import load_for_training
    from pelican.training.grpo import schedule
    from pelican.training.sampling import PROBES, served_generation

    recipe, config, start = context.recipe, context.recipe.rl, context.input("policy")
    if not torch.cuda.is_available():
        torch.set_num_threads(config.threads)

    def report(step: int, reward: float) -> None:
        context.progress(step, config.max_steps, "steps", reward=round(reward, 4))

    def keep(checkpoint: str) -> None:
        context.keep(f"work/trainer/{checkpoint}", last=(TRAINER_STATE, STATE))

    curve, losses = RlCurve(config, all_gather_object, report), Losses(lambda *_: None)
    work = context.restored("work/trainer")
    seed = seed_of(recipe, context.spec.loop)
    order = schedule(len(samples), config.max_steps * config.prompts_per_step, seed)
    if recipe.parallel.at_scale:
        policy, encoder = load_for_training(recipe, start)
    else:
        policy, encoder = load_model(recipe.model, start)
    served = config.generation.where == "server"
    probes = order[context.rank :: context.world_size][:PROBES] if served else []
    place = context.output("work/generation")
    with served_generation(
        recipe, start, place, encoder, [samples[i] for i in probes]
    ) as generation:
        trainer = _trainer(
            recipe,
            start,
            policy,
            encoder,
            generation,
            args=grpo_arguments(recipe, work, context.world_size, seed),
            train_dataset=Dataset.from_dict({"prompt": [""] * len(order), "sample": order}),
            callbacks=[curve, losses, KeepCheckpoints(keep)],
            samples=samples,
            scorer=training_scorer(context.spec.rewards, seed, judge),
            on_step=curve.add,
        )
        checkpoint = last_checkpoint(work, STATE)
        check_world_size(recipe, checkpoint, context.world_size)
        if checkpoint is not None:
            curve.load(checkpoint)
            losses.restore(checkpoint)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    save_trained(trainer, encoder.processor, context.output("checkpoint"), recipe)
    if context.rank == 0:
        context.counts.update({"samples": len(samples), "steps": trainer.state.global_step})
        _write(context, curve, losses)


def _trainer(
    recipe: Recipe,
    start: Path,
    policy: Any,
    encoder: PromptEncoder,
    generation: Generation | None,
    **arguments: Any,
) -> DeliberateGrpoTrainer:
    """TRL's trainer with the policy spread over the processes, or whole in each. `start`: its weights."""
    from pelican.engines.transformers import TransformersEngine
    from pelican.training.grpo_scale import ScaledGrpoTrainer
    from pelican.training.variants import trainer_of

    arguments["processing_class"] = encoder.processor
    if recipe.parallel.at_scale:
        return ScaledGrpoTrainer(
            policy,
            recipe=recipe,
            checkpoint=start,
            encoder=encoder,
            generation=generation,
            **arguments,
        )
    policy.config.name_or_path = str(start)  # where TRL loads the reference
    engine = TransformersEngine(policy, encoder, batch_size=1)
    return trainer_of(recipe.rl)(policy, engine=engine, config=recipe.rl, **arguments)


def _write(context: StageContext, curve: RlCurve, losses: Losses) -> None:
    """The curves, and what the manifest says of them."""
    curve.write(context.output("curve.parquet"), context.output("stagnation.parquet"))
    pl.DataFrame(losses.rows).write_parquet(context.output("optimiser.parquet"))
    context.counts.update(curve.totals)
    _metrics(context, curve.rows)
    context.notes["stopped"] = curve.stop_reason or "max_steps"
    if curve.stagnation:
        context.metric("stagnation", curve.stagnation[-1]["mean_ts"])


def seed_of(recipe: Recipe, loop: int) -> int:
    """Another order of the samples in every loop."""
    return 1000 * recipe.seed + 10 * loop + recipe.rl.seed


def _metrics(context: StageContext, rows: list[dict[str, Any]]) -> None:
    """Mean reward and format over the first and the last ten steps."""
    last = max(row["step"] for row in rows)
    for name, kept in (
        ("first", [r for r in rows if r["step"] <= 10]),
        ("last", [r for r in rows if r["step"] > last - 10]),
    ):
        groups = sum(r["groups"] for r in kept)
        for key in ("reward", "success_rate", "format", "think_chars"):
            context.metric(f"{key}/{name}", sum(r[key] * r["groups"] for r in kept) / groups)

"""train-sft: supervised fine-tuning on the mixture that distillation verified."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import polars as pl
import torch

from pelican.config.recipe import Recipe
from pelican.data.corrections import NONE
from pelican.data.pool import load_pool
from pelican.records import Sample
from pelican.stages.runner import StageContext

if TYPE_CHECKING:
    from pelican.engines.transformers import PromptEncoder
    from pelican.training.sft import Demonstration


def run(context: StageContext) -> None:
    """Inputs: policy, mixture (distill's output), pool, replay. Writes `checkpoint/`."""
    mixture = pl.read_parquet(context.input("mixture") / "mixture.parquet")
    context.counts["rows"] = len(mixture) if context.rank == 0 else 0
    _train(context, mixture)


def _train(context: StageContext, mixture: pl.DataFrame) -> None:
    from pelican.engines.transformers import load_model
    from pelican.training.arguments import sft_arguments
    from pelican.training.checkpoints import (
        TRAINER_STATE,
        KeepCheckpoints,
        Losses,
        check_world_size,
        last_checkpoint,
        save_trained,
    )
    from pelican.training.distributed import load_for_training
    from pelican.training.sft import Demonstration, DemonstrationTrainer, ScaledSftTrainer

    recipe, config = context.recipe, context.recipe.sft
    if not torch.cuda.is_available():
        torch.set_num_threads(config.threads)
    samples: dict[tuple[str, str], Sample] = {}
    for name in mixture["pool"].unique():
        ids = set(mixture.filter(pl.col("pool") == name)["sample_id"])
        pool = load_pool(
            context.input(name),
            max_pixels=recipe.data.max_pixels,
            ids=ids,
            corrections=context.corrections() if name == "pool" else NONE,
        )
        samples |= {(name, sample.id): sample for sample in pool.samples}
        if context.rank == 0:
            context.left_out(pool.quarantine, ids)
    wanted = list(mixture.select("pool", "sample_id", "completion").iter_rows())
    rows = [
        Demonstration(samples[pool, sample_id], completion)
        for pool, sample_id, completion in wanted
        if (pool, sample_id) in samples
    ]
    if context.rank == 0:  # an image may be gone since the teacher saw it
        context.counts["quarantined"] = len(wanted) - len(rows)
    losses = Losses(lambda step, total: context.progress(step, total, "steps"))
    work = context.restored("work/trainer")

    def keep(checkpoint: str) -> None:
        context.keep(f"work/trainer/{checkpoint}", last=(TRAINER_STATE,))

    steps = sft_steps(recipe, len(rows))
    seed = _seed(recipe, context.spec.loop)
    arguments: dict[str, Any] = {
        "args": sft_arguments(recipe, work, context.world_size, seed, steps),
        "callbacks": [losses, KeepCheckpoints(keep)],
        "rows": rows,
    }
    if recipe.parallel.at_scale:
        policy, encoder = load_for_training(recipe, context.input("policy"))
        arguments["recipe"] = recipe
    else:
        policy, encoder = load_model(recipe.model, context.input("policy"))
    trainer = (ScaledSftTrainer if recipe.parallel.at_scale else DemonstrationTrainer)(
        policy, processing_class=encoder.processor, encoder=encoder, **arguments
    )
    checkpoint = last_checkpoint(work)
    check_world_size(recipe, checkpoint, context.world_size)
    if checkpoint is not None:
        losses.restore(checkpoint)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    save_trained(trainer, encoder.processor, context.output("checkpoint"), recipe)
    if context.rank == 0:
        pl.DataFrame(losses.rows).write_parquet(context.output("curve.parquet"))
        context.counts["steps"] = trainer.state.global_step
        context.counts["tokens_trained"] = _tokens(rows, encoder, config.batch_size, steps)
        if losses.rows:
            context.metric("loss", losses.rows[-1]["loss"])


def sft_steps(recipe: Recipe, rows: int) -> int:
    """Optimiser steps of an SFT phase with `rows` rows."""
    steps = math.ceil(recipe.sft.epochs * rows / recipe.sft.batch_size)
    return min(steps, recipe.sft.max_steps) if recipe.sft.max_steps else steps


def _tokens(rows: Sequence[Demonstration], encoder: PromptEncoder, batch: int, steps: int) -> int:
    """Tokens learnt: mean completion length times the rows seen."""
    lengths = [len(encoder.completion(row.completion)) for row in rows]
    return round(sum(lengths) / len(lengths) * batch * steps)


def _seed(recipe: Recipe, loop: int) -> int:
    return 1000 * recipe.seed + 10 * loop + recipe.sft.seed

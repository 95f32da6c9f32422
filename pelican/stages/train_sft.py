"""train-sft: supervised fine-tuning on the mixture that distillation verified."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import polars as pl
import torch

from pelican.config.recipe import Recipe
from pelican.data.corrections import NONE
from pelican.data.frames import read_frame
from pelican.data.pool import load_pool
from pelican.records import Sample
from pelican.stages.job import StageJob
from pelican.stages.stage import Inputs, StageResult

if TYPE_CHECKING:
    from pelican.engines.transformers import PromptEncoder
    from pelican.training.sft import Demonstration


def run(inputs: Inputs, config: Recipe, job: StageJob) -> StageResult:
    """Inputs: policy, mixture (distill's output), pool, replay. Writes `checkpoint/`."""
    from pelican.engines.transformers import load_model
    from pelican.training.arguments import sft_arguments
    from pelican.training.checkpoints import (
        TRAINER_STATE,
        KeepCheckpoints,
        Losses,
        check_world_size,
        last_checkpoint,
        save_trained,
        train,
    )
    from pelican.training.distributed import load_for_training
    from pelican.training.sft import Demonstration, DemonstrationTrainer, ScaledSftTrainer

    result, mixture = StageResult(), read_frame(inputs["mixture"] / "mixture.parquet")
    if not torch.cuda.is_available():
        torch.set_num_threads(config.sft.threads)
    samples: dict[tuple[str, str], Sample] = {}
    for name in mixture["pool"].unique():
        ids = set(mixture.filter(pl.col("pool") == name)["sample_id"])
        pool = load_pool(
            inputs[name],
            max_pixels=config.data.max_pixels,
            ids=ids,
            corrections=inputs.corrections() if name == "pool" else NONE,
        )
        samples |= {(name, sample.id): sample for sample in pool.samples}
        if job.rank == 0:
            job.log_left_out(pool.quarantine, ids)
    wanted = list(mixture.select("pool", "sample_id", "completion").iter_rows())
    rows = [
        Demonstration(samples[pool, sample_id], completion)
        for pool, sample_id, completion in wanted
        if (pool, sample_id) in samples
    ]
    if job.rank == 0:
        result.counts["rows"] = len(mixture)
        # An image may be gone since the teacher saw it.
        result.counts["quarantined"] = len(wanted) - len(rows)
    losses = Losses(lambda step, total: job.progress(step, total, "steps"))
    work = job.restored("work/trainer")

    def keep(checkpoint: str) -> None:
        job.keep(f"work/trainer/{checkpoint}", last=(TRAINER_STATE,))

    steps = sft_steps(config, len(rows))
    seed = _seed(config, job.loop)
    arguments: dict[str, Any] = {
        "args": sft_arguments(config, work, job.world_size, seed, steps),
        "callbacks": [losses, KeepCheckpoints(keep)],
        "rows": rows,
    }
    if config.parallel.at_scale:
        policy, encoder = load_for_training(config, inputs["policy"], arguments["args"])
        arguments["recipe"] = config
    else:
        policy, encoder = load_model(config.model, inputs["policy"])
    trainer = (ScaledSftTrainer if config.parallel.at_scale else DemonstrationTrainer)(
        policy, processing_class=encoder.processor, encoder=encoder, **arguments
    )
    checkpoint = last_checkpoint(work)
    check_world_size(config, checkpoint, job.world_size)
    if checkpoint is not None:
        losses.restore(checkpoint)
    train(trainer, checkpoint)
    save_trained(trainer, encoder.processor, job.output("checkpoint"), config)
    if job.rank == 0:
        pl.DataFrame(losses.rows).write_parquet(job.output("curve.parquet"))
        result.counts["steps"] = trainer.state.global_step
        seen = config.sft.batch_size * steps
        result.counts.update(count_trained(rows, encoder, seen))
        if losses.rows:
            result.add_metric("loss", losses.rows[-1]["loss"])
    return result


def sft_steps(recipe: Recipe, rows: int) -> int:
    """Optimiser steps of an SFT phase with `rows` rows."""
    steps = math.ceil(recipe.sft.epochs * rows / recipe.sft.batch_size)
    return min(steps, recipe.sft.max_steps) if recipe.sft.max_steps else steps


def count_trained(rows: Sequence[Demonstration], encoder: PromptEncoder, seen: int) -> Counter[str]:
    """Tokens of completions, and of their prompts, in `seen` rows: by the means of all rows."""
    share = seen / len(rows)
    completions = sum(len(encoder.completion(row.completion)) for row in rows)
    prompts = sum(encoder.length(row.sample) for row in rows)
    return Counter(
        tokens_trained=round(completions * share), prompt_tokens_trained=round(prompts * share)
    )


def _seed(recipe: Recipe, loop: int) -> int:
    return 1000 * recipe.seed + 10 * loop + recipe.sft.seed

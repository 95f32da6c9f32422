"""Stage eval: greedy completions on the held-out suites, scores with intervals, the gate.

Inputs: `policy` (checkpoint), `evaluation` and `general` (pools), optional `base` and `previous`
(earlier eval stages). Ranks take turns at shards of 256 samples; a shard that is on disk is done,
whichever rank wrote it, so a killed evaluation goes on where it was.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import polars as pl

from pelican.data.tables import open_parquet, read_samples, shard_paths
from pelican.engines import Engine, open_engine
from pelican.errors import InfrastructureError, UserInputError
from pelican.evaluation.gate import decide
from pelican.evaluation.results import (
    RESULTS,
    ResultRow,
    Suite,
    read_results,
    result_row,
    write_results,
)
from pelican.evaluation.summary import Summary, summarise
from pelican.recipe import Recipe
from pelican.records import Sample
from pelican.rewards import judge_of, score
from pelican.stages.base import StageContext

SHARD = 256  # samples, the unit of resuming
WAIT_S = 24 * 3600.0  # for the shards of other ranks; torchrun ends all if one of them dies
SUITES: dict[str, Suite] = {"evaluation": "embodied", "general": "general"}


@dataclass(frozen=True)
class _Shard:
    """Up to 256 samples of one suite; `index` counts over both suites."""

    index: int
    suite: Suite
    pool: Path
    start: int
    size: int


def run(context: StageContext) -> None:
    """Answer the shards of this rank; rank 0 waits for the others, merges, scores and decides."""
    shards = _shards(context)
    mine = shards[context.rank :: context.world_size]
    missing = [shard for shard in mine if _part(context, shard) is None]
    if missing:
        _answer(context, missing, done=sum(s.size for s in mine) - sum(s.size for s in missing))
    if context.rank:
        return
    frame = _merge([_wait_for(context, shard) for shard in shards])
    frame.write_parquet(context.output("results.parquet"), compression="zstd")
    _conclude(context, frame)


def _shards(context: StageContext) -> list[_Shard]:
    shards: list[_Shard] = []
    for name, suite in SUITES.items():
        pool = context.input(name)
        total = sum(open_parquet(path).metadata.num_rows for path in shard_paths(pool))
        if not total:
            raise UserInputError(f"{name} set {pool} is empty; check the recipe's data section")
        for start in range(0, total, SHARD):
            size = min(SHARD, total - start)
            shards.append(_Shard(len(shards), suite, pool, start, size))
    return shards


def _part(context: StageContext, shard: _Shard) -> Path | None:
    """The finished file of a shard, if any rank has written it."""
    found = sorted(context.output("work/parts").parent.glob(f"part-*-{shard.index:05d}.parquet"))
    return found[0] if found else None


def _answer(context: StageContext, shards: list[_Shard], done: int) -> None:
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    recipe = context.recipe
    engine = open_engine(recipe.rollout, recipe.model, context.input("policy"), threads)
    total = done + sum(shard.size for shard in shards)
    for shard, samples in _load(shards):
        rows: list[ResultRow] = []
        for row in _rows(engine, samples, shard.suite, recipe):
            rows.append(row)
            context.progress(done + len(rows), total, "samples")
        done += len(rows)
        name = f"work/part-{context.rank:03d}-{shard.index:05d}.parquet"
        write_results(context.output(name), rows)


def _load(shards: list[_Shard]) -> Iterator[tuple[_Shard, list[Sample]]]:
    """The samples of each shard; every pool is read once, one shard in memory at a time."""
    for suite in SUITES.values():
        wanted = [shard for shard in shards if shard.suite == suite]
        if not wanted:
            continue
        samples, position = read_samples(wanted[0].pool), 0
        for shard in wanted:
            chosen = list(
                islice(samples, shard.start - position, shard.start - position + shard.size)
            )
            position = shard.start + shard.size
            yield shard, chosen


def _rows(
    engine: Engine, samples: list[Sample], suite: Suite, recipe: Recipe
) -> Iterator[ResultRow]:
    # Flipped rewards are an ablation of training; held-out answers are always scored honestly.
    honest = recipe.reward.model_copy(update={"flip": 0.0})
    judge = judge_of(honest, training=False)
    groups = engine.generate(samples, recipe.eval.sampling, 1, recipe.seed)
    for sample, (rollout,) in zip(samples, groups, strict=True):
        scored = score(sample, rollout.completion, honest, judge=judge)
        yield result_row(sample, suite, rollout, scored)


def _wait_for(context: StageContext, shard: _Shard) -> Path:
    deadline = time.monotonic() + WAIT_S
    while (path := _part(context, shard)) is None:
        if time.monotonic() > deadline:
            raise InfrastructureError(
                f"evaluation shard {shard.index} of {context.spec.output} was not written"
                f" within {WAIT_S / 3600:g} h; run the stage again"
            )
        time.sleep(0.2)
    return path


def _merge(parts: list[Path]) -> pl.DataFrame:
    frame = pl.concat([pl.read_parquet(path) for path in parts]).select(RESULTS.names)
    frame = frame.sort("suite", "sample_id")
    twice = frame.filter(pl.struct("suite", "sample_id").is_duplicated())
    if len(twice):
        raise UserInputError(
            f"held-out sample {twice['sample_id'][0]!r} occurs more than once; ids must be unique"
        )
    return frame


def _conclude(context: StageContext, frame: pl.DataFrame) -> None:
    """Write the summary and the gate, and name the numbers of the manifest."""
    recipe = context.recipe
    earlier: dict[str, tuple[str, pl.DataFrame]] = {
        name: (context.spec.inputs[name], read_results(context.input(name)))
        for name in ("base", "previous")
        if name in context.spec.inputs
    }
    summary = summarise(frame, earlier, resamples=recipe.eval.bootstrap, seed=recipe.seed)
    gate = decide(summary, recipe.eval)
    context.output("summary.json").write_text(summary.model_dump_json(indent=1))
    context.output("gate.json").write_text(gate.model_dump_json(indent=1))
    context.counts["samples"] = len(frame)
    context.counts["tokens"] = int(frame["tokens"].sum())
    context.notes["gate"] = gate.reasons
    for name, value in manifest_metrics(summary).items():
        context.metric(name, value)
    context.metric("go_on", float(gate.go_on))


def manifest_metrics(summary: Summary) -> dict[str, float]:
    """The numbers that a manifest, and so Kubeflow, shows of one evaluation."""
    metrics = {
        "format_rate": summary.format_rate,
        "mean_tokens": summary.mean_tokens,
        "mean_think_chars": summary.mean_think_chars,
    }
    for name, estimate in (("embodied", summary.embodied), ("general", summary.general)):
        if estimate is not None:
            metrics[name] = estimate.score
            metrics[f"{name}_low"] = estimate.low
            metrics[f"{name}_high"] = estimate.high
            metrics[f"{name}_chance"] = estimate.chance
    metrics |= {f"family/{name}": e.score for name, e in summary.families.items()}
    metrics |= {f"dimension/{name}": e.score for name, e in summary.dimensions.items()}
    return metrics

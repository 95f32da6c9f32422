"""Eval: greedy completions on the held-out suites, scores with intervals, the gate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from pelican.base.process import in_order
from pelican.data.entries import Entry
from pelican.data.pool import PoolIndex, read_index
from pelican.data.tables import Quarantine
from pelican.engines import Engine, open_engine
from pelican.errors import UserInputError
from pelican.evaluation.gate import decide
from pelican.evaluation.metrics import (
    RESULTS,
    ResultRow,
    Suite,
    Summary,
    read_results,
    result_row,
    summarise,
    write_results,
)
from pelican.monitoring import record
from pelican.records import Rollout, Sample
from pelican.rewards import Judge, judge_of, judge_workers, score
from pelican.stages.parts import Parts, when_needed
from pelican.stages.runner import StageContext

PART = 256  # samples between two points of resuming
SUITES: dict[str, Suite] = {"evaluation": "embodied", "general": "general"}


@dataclass(frozen=True)
class _Part:
    """Up to 256 samples of one suite."""

    suite: Suite
    pool: PoolIndex
    entries: Sequence[Entry]


def run(context: StageContext) -> None:
    """Inputs policy, evaluation, general; optional base and previous, earlier eval stages.

    Every rank answers the parts of its turn; rank 0 joins them, and writes `results.parquet`,
    `summary.json` and `gate.json`.
    """
    recipe = context.recipe
    asked = _parts(context)
    sizes = [len(part.entries) for part in asked]
    parts = Parts(context, "part", sizes, write_results)
    judge = judge_of(recipe.reward, training=False, store=context.store)
    with when_needed(lambda: _open(context)) as engine:
        parts.answer(lambda number: _rows(context, engine, judge, asked[number]))
    context.judged(judge)
    if context.rank == 0:
        frame = pl.concat([pl.read_parquet(file) for file in parts.files()])
        _conclude(context, frame.select(RESULTS.names).sort("suite", "sample_id"), sum(sizes))


def _parts(context: StageContext) -> list[_Part]:
    parts: list[_Part] = []
    for name, suite in SUITES.items():
        pool = read_index(context.input(name))
        if context.rank == 0:
            context.counts["quarantined"] += len(pool.quarantine)
        for start in range(0, len(pool.entries), PART):
            entries = pool.entries[start : start + PART]
            parts.append(_Part(suite, pool, entries))
    return parts


def _open(context: StageContext) -> Engine:
    recipe = context.recipe
    return open_engine(recipe.rollout, recipe.model, context.input("policy"))


def _rows(
    context: StageContext, engine: Callable[[], Engine], judge: Judge | None, part: _Part
) -> Iterator[ResultRow]:
    """The scored answers of one part; a sample whose image can't be read is left out."""
    recipe = context.recipe
    pixels = recipe.data.max_pixels
    quarantine = Quarantine()
    with record.timed("data"):
        loaded = part.pool.load(part.entries, max_pixels=pixels, quarantine=quarantine)
        samples: list[Sample] = list(loaded)
    context.left_out(quarantine)
    if not samples:
        return
    groups = engine().generate(samples, recipe.eval.sampling, 1, recipe.seed)

    def row(answered: tuple[Sample, list[Rollout]]) -> ResultRow:
        sample, (rollout,) = answered
        record.generated([rollout])
        scored = score(
            sample, rollout.completion, context.spec.rewards, seed=recipe.seed, judge=judge
        )
        return result_row(sample, part.suite, rollout, scored)

    answered = zip(samples, record.timed_each("generate", groups), strict=True)
    yield from in_order(row, answered, judge_workers(recipe.reward, judge))


def _conclude(context: StageContext, frame: pl.DataFrame, expected: int) -> None:
    """Write results, summary and gate, and name the numbers of the manifest."""
    recipe, output = context.recipe, context.spec.output
    for suite in SUITES.values():
        if frame.filter(suite=suite).is_empty():
            raise UserInputError(
                f"no image of the {suite} suite can be read; check the data section"
            )
    earlier: dict[str, tuple[str, pl.DataFrame]] = {
        name: (context.spec.inputs[name], read_results(context.input(name)))
        for name in ("base", "previous")
        if name in context.spec.inputs
    }
    summary = summarise(frame, earlier, resamples=recipe.eval.bootstrap, seed=recipe.seed)
    gate = decide(summary, recipe.eval)
    frame.write_parquet(context.output("results.parquet"), compression="zstd")
    context.put("results.parquet")
    context.store.write(f"{output}/summary.json", summary.model_dump_json(indent=1).encode())
    context.store.write(f"{output}/gate.json", gate.model_dump_json(indent=1).encode())
    context.counts["samples"] = len(frame)
    context.counts["quarantined"] += expected - len(frame)
    context.counts["tokens"] = int(frame["tokens"].sum())
    context.notes["gate"] = gate.reasons
    for name, value in manifest_metrics(summary).items():
        context.metric(name, value)
    context.metric("go_on", float(gate.go_on))
    record.evaluated(summary, gate, recipe.obeys_gate_after(context.spec.phase))


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

"""Eval: greedy completions on the held-out suites, sampled ones if wanted, scores, the gate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat

import polars as pl

from pelican.base.process import in_order
from pelican.config.recipe import Recipe
from pelican.data.entries import Entry
from pelican.data.frames import read_frame
from pelican.data.pool import PoolIndex, read_index
from pelican.data.tables import Quarantine
from pelican.engines import Engine, open_engine
from pelican.errors import UserInputError
from pelican.evaluation.gate import (
    ACCEPTED,
    BASE,
    accepted_before,
    compare_accepted,
    decide,
    end_of,
    write_accepted,
)
from pelican.evaluation.metrics import (
    ResultRow,
    Suite,
    Summary,
    read_results,
    result_row,
    summarise,
    write_results,
)
from pelican.evaluation.sampled import (
    sampled_metrics,
    schema_of,
    summarise_attempts,
    with_attempts,
)
from pelican.monitoring import record
from pelican.records import Rollout, Sample
from pelican.rewards import Judge, judge_workers, score
from pelican.stages.job import StageJob
from pelican.stages.parts import Parts, when_needed
from pelican.stages.stage import Inputs, StageResult

PART = 256  # samples between two points of resuming
SUITES: dict[str, Suite] = {"evaluation": "embodied", "general": "general"}


@dataclass(frozen=True)
class _Part:
    """Up to 256 samples of one suite."""

    suite: Suite
    pool: PoolIndex
    entries: Sequence[Entry]


def run(inputs: Inputs, config: Recipe, job: StageJob) -> StageResult:
    """Inputs policy, evaluation, general; optional base and previous, earlier eval stages.

    Every rank answers the parts of its turn; rank 0 joins them, and writes `results.parquet`,
    `summary.json` and `gate.json`, and, at the end of a later loop, `accepted.parquet`.
    """
    result = StageResult()
    pools = {name: read_index(inputs[name]) for name in SUITES}
    if job.rank == 0:
        result.counts["quarantined"] = sum(len(pool.quarantine) for pool in pools.values())
    asked = _parts(pools)
    sizes = [len(part.entries) for part in asked]
    schema = schema_of(config.eval)
    parts = Parts(job, "part", sizes, partial(write_results, schema=schema))
    judge = job.judge(config.reward)
    with when_needed(lambda: open_engine(config.rollout, config.model, inputs["policy"])) as engine:
        parts.answer(lambda number: _rows(config, job, engine, judge, asked[number]))
    result.add_judge(judge)
    if job.rank == 0:
        frame = pl.concat([read_frame(file) for file in parts.files()])
        frame = frame.select(schema.names).sort("suite", "sample_id")
        result.counts["quarantined"] += sum(sizes) - len(frame)
        _conclude(inputs, config, job, result, frame)
    return result


def _parts(pools: Mapping[str, PoolIndex]) -> list[_Part]:
    return [
        _Part(suite, pools[name], pools[name].entries[start : start + PART])
        for name, suite in SUITES.items()
        for start in range(0, len(pools[name].entries), PART)
    ]


def _rows(
    config: Recipe,
    job: StageJob,
    engine: Callable[[], Engine],
    judge: Judge | None,
    part: _Part,
) -> Iterator[ResultRow]:
    """The scored answers of one part; a sample whose image can't be read is left out."""
    pixels = config.data.max_pixels
    quarantine = Quarantine()
    with record.timed("data"):
        loaded = part.pool.load(part.entries, max_pixels=pixels, quarantine=quarantine)
        samples: list[Sample] = list(loaded)
    job.log_left_out(quarantine)
    if not samples:
        return
    groups = engine().generate(samples, config.eval.sampling, 1, config.seed)
    greedy: Iterable[list[Rollout]] = record.timed_each("generate", groups)
    sampled: Iterable[list[Rollout]] = repeat([], len(samples))
    if config.eval.samples:
        greedy = list(greedy)  # an engine does one thing at a time
        more = engine().generate(samples, config.eval.sampled, config.eval.samples, config.seed)
        sampled = record.timed_each("generate", more)

    def row(answered: tuple[Sample, list[Rollout], list[Rollout]]) -> ResultRow:
        sample, (rollout,), attempts = answered
        record.generated([rollout, *attempts])
        scored = [
            score(sample, one.completion, config.reward, seed=config.seed, judge=judge)
            for one in (rollout, *attempts)
        ]
        found = result_row(sample, part.suite, rollout, scored[0])
        return with_attempts(found, attempts, scored[1:]) if attempts else found

    answered = zip(samples, greedy, sampled, strict=True)
    yield from in_order(row, answered, judge_workers(config.reward, judge))


def _conclude(
    inputs: Inputs, config: Recipe, job: StageJob, result: StageResult, frame: pl.DataFrame
) -> None:
    """Write results, summary and gate, and name the numbers of the manifest."""
    for suite in SUITES.values():
        if frame.filter(suite=suite).is_empty():
            raise UserInputError(
                f"no image of the {suite} suite can be read; check the data section"
            )
    earlier = {name: read_results(inputs[name]) for name in ("base", "previous") if name in inputs}
    places = {name: (inputs.place(name), before) for name, before in earlier.items()}
    draws = {"resamples": config.eval.bootstrap, "seed": config.seed}
    summary = summarise(frame, places, **draws)
    sampled = summarise_attempts(frame, config.eval, config.seed)
    summary = summary.model_copy(update={"sampled": sampled})
    accepted = accepted_before(earlier, inputs.get("previous"), job.loop)
    compared = summary.comparisons
    known = {BASE: compared.get("base"), end_of(job.loop - 1): compared.get("previous")}
    against = compare_accepted(accepted, frame, known, **draws)
    gate = decide(against, config.eval)
    if len(accepted) > 1 and config.obeys_gate_after(job.phase):  # for the next loop's gate
        write_accepted(job.output(ACCEPTED), accepted)
        job.put(ACCEPTED)
    frame.write_parquet(job.output("results.parquet"), compression="zstd")
    job.put("results.parquet")
    job.write("summary.json", summary.model_dump_json(indent=1).encode())
    job.write("gate.json", gate.model_dump_json(indent=1).encode())
    result.counts["samples"] = len(frame)
    result.counts["tokens"] = int(frame["tokens"].sum())
    if config.eval.samples:
        result.counts["sampled_tokens"] = int(frame["attempts_tokens"].sum())
    result.notes["gate"] = gate.reasons
    for name, value in manifest_metrics(summary).items():
        result.add_metric(name, value)
    result.add_metric("go_on", float(gate.go_on))
    record.evaluated(summary, gate, config.obeys_gate_after(job.phase))


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
    metrics |= sampled_metrics(summary.sampled)
    metrics |= {f"family/{name}": e.score for name, e in summary.families.items()}
    metrics |= {f"dimension/{name}": e.score for name, e in summary.dimensions.items()}
    return metrics

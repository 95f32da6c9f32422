"""Distill: the teacher answers the weak set, its relatives and replay; our reward verifies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from pydantic import BaseModel

from pelican.base.model import digest_of
from pelican.base.process import in_order
from pelican.config.recipe import DistillConfig, Recipe
from pelican.data.entries import Entry
from pelican.data.pool import PoolIndex, read_index
from pelican.data.select import teachable
from pelican.data.tables import Quarantine, open_parquet, write_table
from pelican.dppo.distillation import (
    MIXTURE,
    TEACHER,
    EndpointTeacher,
    EngineTeacher,
    MixtureRow,
    PoolName,
    Reply,
    Request,
    Teacher,
    TeacherRow,
    by_need,
    kept_rows,
    mix,
    parts_of,
    plan,
    plan_uniform,
    verify,
)
from pelican.dppo.retrieval import Embedder, Related, TextEmbedder, VisionEmbedder, associate
from pelican.engines import open_engine
from pelican.errors import UserInputError
from pelican.monitoring import record
from pelican.records import Sample
from pelican.rewards import Judge, judge_workers
from pelican.stages.job import StageJob
from pelican.stages.parts import Parts, when_needed
from pelican.stages.stage import Inputs, StageResult

PART = 128  # samples that the teacher answers between two points of resuming
Row = TypeVar("Row", bound=BaseModel)


def run(inputs: Inputs, config: Recipe, job: StageJob) -> StageResult:
    """Inputs weak, pool, replay, teacher, policy; writes `teacher.parquet`, `mixture.parquet`.

    With an endpoint there need be no teacher among the inputs, with random prompts nothing weak.
    Every rank answers the parts of its turn; rank 0 joins them and makes the mixture.
    """
    result = StageResult()
    indexes: dict[PoolName, PoolIndex] = {
        "pool": read_index(inputs["pool"], inputs.corrections()),
        "replay": read_index(inputs["replay"]),
    }
    planned = _plan(inputs, config, job, indexes, result)
    if job.rank:
        result.counts.clear()  # every rank makes the same plan, and counts are summed over them
    requests = planned[: config.distill.questions]
    # Asked in the order of the pools, so that each part reads a few row groups only.
    asked = sorted(requests, key=lambda r: (r.pool, r.entry.shard, r.entry.row))
    chunks = [asked[i : i + PART] for i in range(0, len(asked), PART)]
    parts = Parts(job, "teacher", [len(chunk) for chunk in chunks], _write_answers)
    judge = job.judge(config.reward)
    with when_needed(lambda: _open_teacher(inputs, config)) as teacher:
        parts.answer(lambda number: _answers(config, job, indexes, chunks[number], teacher, judge))
    result.add_judge(judge)
    if job.rank != 0:
        return result
    answered = _join(parts, requests)
    name = config.models.teacher
    earlier = [_earlier_rows(folder) for folder in inputs.earlier()]
    kept = kept_rows(earlier, answered, config.distill)
    rows = mix(answered, config.distill, name, _salt(config, job), kept)
    if not rows:
        raise UserInputError(
            f"the teacher {name!r} gave no answer that the reward accepts"
            f" in {len(answered)} samples; check models.teacher, distill.tries and the replay pool"
        )
    _write(job, "teacher.parquet", answered, TEACHER)
    _write(job, "mixture.parquet", rows, MIXTURE)
    _report(result, config.distill, answered, rows, len(requests))
    if config.distill.keep_rows:
        result.counts["kept_earlier"] = len(kept)
        result.counts["rows_earlier"] = sum(row.origin == "earlier" for row in rows)
    if config.distill.questions is not None:
        _report_unasked(result, config.distill, planned[len(requests) :])
    return result


def _earlier_rows(folder: Path) -> list[TeacherRow]:
    """What the teacher answered in an earlier loop, whose distill's output the folder is."""
    rows = open_parquet(folder / "teacher.parquet").read().to_pylist()
    return [TeacherRow.model_validate(values) for values in rows]


def _salt(config: Recipe, job: StageJob) -> str:
    return f"distill:{config.seed}:{job.loop}"


def _plan(
    inputs: Inputs,
    config: Recipe,
    job: StageJob,
    indexes: Mapping[PoolName, PoolIndex],
    result: StageResult,
) -> list[Request]:
    """Whatever the teacher would be asked without a budget, what is needed most first."""
    asked, salt, index = config.distill, _salt(config, job), indexes["pool"]
    replay = indexes["replay"].within(config.data.horizon(job.loop))
    if asked.prompts == "uniform":
        pool, result.counts["kept_for_later"] = teachable(index, config, job.loop)
        return plan_uniform(pool, replay, asked, salt)
    weak = _weak_entries(inputs["weak"], index)
    related: list[Related] = []
    if weak and not asked.only_replay:
        with _embedder(inputs, config, index) as embedder:
            seen = _rolled_out(inputs["weak"]) if config.data.by_weakness else set()
            pool, result.counts["kept_for_later"] = teachable(index, config, job.loop, seen)
            related = associate(weak, pool, embedder, asked.neighbours, salt)
    if not weak:
        more = " and rows of earlier loops" if asked.keep_rows else " alone"
        result.notes["empty_weak_set"] = f"nothing is weak: the mixture is replay{more}"
    if asked.max_calls:
        weak = by_need(weak, _rewards(inputs["weak"]), salt)
    return plan(weak, related, replay, asked, salt)


def _weak_entries(folder: Path, pool: PoolIndex) -> list[Entry]:
    """The rows of the pool that filter, whose output the folder is, found weak."""
    file = open_parquet(folder / "weak.parquet")
    ids = set(file.read(columns=["sample_id"]).column("sample_id").to_pylist())
    weak = pool.with_ids(ids)
    if len(weak) < len(ids):
        missing = sorted(ids - {entry.id for entry in weak})
        raise UserInputError(
            f"{len(missing)} weak samples are not in pool {pool.folder} (first {missing[0]!r});"
            " give distill the pool that was rolled out"
        )
    return weak


def _rolled_out(folder: Path) -> set[str]:
    """The ids of all samples that filter, whose output the folder is, has a success rate of."""
    table = open_parquet(folder / "ledger.parquet").read(columns=["sample_id"])
    return set(table.column("sample_id").to_pylist())


def _rewards(folder: Path) -> dict[str, float]:
    """The mean reward of every weak sample, by id."""
    rows = open_parquet(folder / "weak.parquet").read(columns=["sample_id", "mean_reward"])
    return {row["sample_id"]: row["mean_reward"] for row in rows.to_pylist()}


@contextmanager
def _embedder(inputs: Inputs, config: Recipe, pool: PoolIndex) -> Iterator[Embedder]:
    """The policy, where it is asked for, is gone at the end: the teacher needs its memory."""
    if config.distill.embedding == "text":
        yield TextEmbedder()
        return
    # Only the transformers engine gives features, and only of a tower that it keeps them of.
    rollout = config.rollout.model_copy(update={"engine": "transformers"})
    model = config.model.model_copy(update={"freeze_vision": True, "cache_vision": True})
    engine = open_engine(rollout, model, inputs["policy"])
    try:
        yield VisionEmbedder(pool, engine, config.data.max_pixels)
    finally:
        engine.close()


def _open_teacher(inputs: Inputs, config: Recipe) -> Teacher:
    if config.distill.endpoint:
        return EndpointTeacher(
            config.distill.endpoint,
            config.models.teacher,
            system_prompt=config.model.system_prompt,
        )
    return EngineTeacher(open_engine(config.rollout, config.model, inputs["teacher"]))


def _answers(
    config: Recipe,
    job: StageJob,
    indexes: dict[PoolName, PoolIndex],
    requests: Sequence[Request],
    teacher: Callable[[], Teacher],
    judge: Judge | None,
) -> Iterator[TeacherRow]:
    """The verified answers of one part; a sample whose image can't be read is left out."""
    samples: dict[tuple[PoolName, str], Sample] = {}
    quarantine = Quarantine()
    for name, index in indexes.items():
        wanted = [request.entry for request in requests if request.pool == name]
        with record.timed("data"):
            loaded = index.load(wanted, max_pixels=config.data.max_pixels, quarantine=quarantine)
            samples |= {(name, sample.id): sample for sample in loaded}
    job.log_left_out(quarantine)
    asked = [request for request in requests if (request.pool, request.entry.id) in samples]
    if not asked:
        return
    questions = [samples[request.pool, request.entry.id] for request in asked]
    seed = int(digest_of([config.seed, job.loop, "distill"]), 16) >> 1
    replies = teacher().answer(questions, config.distill.sampling, config.distill.tries, seed)

    def row(answered: tuple[Request, Sample, list[Reply]]) -> TeacherRow:
        request, sample, tries = answered
        record.generated(tries)
        salt = f"{_salt(config, job)}:choose"
        best = verify(sample, tries, config.reward, judge, config.distill, salt)
        return TeacherRow(
            sample_id=sample.id,
            origin=request.origin,
            pool=request.pool,
            family=sample.family,
            dimension=sample.dimension,
            source=sample.source,
            answer_text=best.text,
            accepted=best.accepted,
            reason=best.reason,
            score=best.score,
            tries=best.tries,
            accepted_tries=best.accepted_tries,
            tokens=best.tokens,
            prompt_tokens=best.prompt_tokens,
            weak_id=request.weak_id,
            similarity=request.similarity,
        )

    answered = zip(asked, questions, record.timed_each("generate", replies), strict=True)
    yield from in_order(row, answered, judge_workers(config.reward, judge))


def _join(parts: Parts[TeacherRow], requests: Sequence[Request]) -> list[TeacherRow]:
    """The rows of all ranks, in the order of the plan: of the related rows the nearest first."""
    place = {(request.pool, request.entry.id): i for i, request in enumerate(requests)}
    rows = [
        TeacherRow.model_validate(values)
        for file in parts.files()
        for values in open_parquet(file).read().to_pylist()
    ]
    return sorted(rows, key=lambda row: place[row.pool, row.sample_id])


def _write_answers(path: Path, rows: Sequence[TeacherRow]) -> None:
    write_table(path, _table(rows, TEACHER))


def _table(rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([row.model_dump(mode="json") for row in rows], schema=schema)


def _write(job: StageJob, name: str, rows: Sequence[Row], schema: pa.Schema) -> None:
    write_table(job.output(name), _table(rows, schema))
    job.put(name)


def _report(
    result: StageResult,
    config: DistillConfig,
    answered: Sequence[TeacherRow],
    rows: Sequence[MixtureRow],
    requested: int,
) -> None:
    """Counts by origin; of the weak ones what the teacher failed at, and its acceptance by family."""
    counts = result.counts
    for origin in parts_of(config):
        of = [row for row in answered if row.origin == origin]
        counts[f"asked_{origin}"] = len(of)
        counts[f"accepted_{origin}"] = sum(row.accepted for row in of)
        counts[f"rows_{origin}"] = sum(row.origin == origin for row in rows)
        if of:
            result.add_metric(f"acceptance_of/{origin}", counts[f"accepted_{origin}"] / len(of))
    counts["rows"] = len(rows)
    weak = [row for row in answered if row.origin == "weak"]
    counts["teacher_failed"] = sum(not row.accepted for row in weak)
    counts["teacher_tokens"] = sum(row.tokens for row in answered)
    counts["teacher_prompt_tokens"] = sum(row.prompt_tokens for row in answered)
    counts["teacher_calls"] = sum(row.tries for row in answered)
    counts["quarantined"] = requested - len(answered)
    for family in sorted({row.family for row in weak}):
        tried = [row for row in weak if row.family == family]
        accepted = sum(row.accepted for row in tried)
        counts[f"asked/{family.value}"] = len(tried)
        counts[f"accepted/{family.value}"] = accepted
        result.add_metric(f"acceptance/{family.value}", accepted / len(tried))


def _report_unasked(result: StageResult, config: DistillConfig, unasked: Sequence[Request]) -> None:
    """Count by origin what the budget of calls left out, and tell it."""
    left = Counter(request.origin for request in unasked)
    for origin in parts_of(config):
        result.counts[f"unasked_{origin}"] = left[origin]
    if unasked:
        result.tell(
            f"distill.max_calls = {config.max_calls} left {len(unasked)} samples unasked:"
            f" {', '.join(f'{count} {origin}' for origin, count in left.items())}"
        )

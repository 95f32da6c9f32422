"""Distill: the teacher answers the weak set, its relatives and replay; our reward verifies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from pydantic import BaseModel

from pelican.base.model import digest_of
from pelican.base.process import in_order
from pelican.data.entries import Entry
from pelican.data.pool import PoolIndex, read_index
from pelican.data.tables import Quarantine, open_parquet, write_table
from pelican.dppo.distillation import (
    MIXTURE,
    ORIGINS,
    TEACHER,
    EndpointTeacher,
    EngineTeacher,
    MixtureRow,
    PoolName,
    Reply,
    Request,
    Teacher,
    TeacherRow,
    mix,
    plan,
    verify,
)
from pelican.dppo.retrieval import Embedder, TextEmbedder, VisionEmbedder, associate
from pelican.engines import open_engine
from pelican.errors import UserInputError
from pelican.monitoring import record
from pelican.records import Sample
from pelican.rewards import Judge, judge_of, judge_workers
from pelican.stages.parts import Parts, when_needed
from pelican.stages.runner import StageContext

PART = 128  # samples that the teacher answers between two points of resuming
Row = TypeVar("Row", bound=BaseModel)


def run(context: StageContext) -> None:
    """Inputs weak, pool, replay, teacher, policy; writes `teacher.parquet`, `mixture.parquet`.

    With an endpoint there need be no teacher among the inputs.
    Every rank answers the parts of its turn; rank 0 joins them and makes the mixture.
    """
    spec, config = context.spec, context.recipe.distill
    salt = f"distill:{context.recipe.seed}:{spec.loop}"
    indexes: dict[PoolName, PoolIndex] = {
        "pool": read_index(context.input("pool"), context.corrections()),
        "replay": read_index(context.input("replay")),
    }
    weak = _weak_entries(context, indexes["pool"])
    horizon_s = context.recipe.data.horizon(spec.loop)
    related = []
    if weak and not config.only_replay:
        with _embedder(context, indexes["pool"]) as embedder:
            related = associate(
                weak, indexes["pool"].within(horizon_s), embedder, config.neighbours, salt
            )
    replay = indexes["replay"].within(horizon_s)
    requests = plan(weak, related, replay, config, salt)
    # Asked in the order of the pools, so that each part reads a few row groups only.
    asked = sorted(requests, key=lambda r: (r.pool, r.entry.shard, r.entry.row))
    chunks = [asked[i : i + PART] for i in range(0, len(asked), PART)]
    parts = Parts(context, "teacher", [len(chunk) for chunk in chunks], _write_answers)
    judge = judge_of(context.recipe.reward, training=False, store=context.store)
    with when_needed(lambda: _open_teacher(context)) as teacher:
        parts.answer(lambda number: _answers(context, indexes, chunks[number], teacher, judge))
    context.judged(judge)
    if context.rank != 0:
        return
    answered = _join(parts, requests)
    name = context.recipe.models.teacher
    rows = mix(answered, config, name, salt)
    if not rows:
        raise UserInputError(
            f"the teacher {name!r} gave no answer that the reward accepts"
            f" in {len(answered)} samples; check models.teacher, distill.tries and the replay pool"
        )
    _write(context, "teacher.parquet", answered, TEACHER)
    _write(context, "mixture.parquet", rows, MIXTURE)
    _report(context, answered, rows, len(requests))
    if not weak:
        context.notes["empty_weak_set"] = "nothing is weak: the mixture is replay alone"


def _weak_entries(context: StageContext, pool: PoolIndex) -> list[Entry]:
    """The rows of the pool that filter found weak."""
    file = open_parquet(context.input("weak") / "weak.parquet")
    ids = set(file.read(columns=["sample_id"]).column("sample_id").to_pylist())
    weak = pool.with_ids(ids)
    if len(weak) < len(ids):
        missing = sorted(ids - {entry.id for entry in weak})
        raise UserInputError(
            f"{len(missing)} weak samples are not in pool {pool.folder} (first {missing[0]!r});"
            " give distill the pool that was rolled out"
        )
    return weak


@contextmanager
def _embedder(context: StageContext, pool: PoolIndex) -> Iterator[Embedder]:
    """The policy, where it is asked for, is gone at the end: the teacher needs its memory."""
    recipe = context.recipe
    if recipe.distill.embedding == "text":
        yield TextEmbedder()
        return
    # Only the transformers engine gives features, and only of a tower that it keeps them of.
    config = recipe.rollout.model_copy(update={"engine": "transformers"})
    model = recipe.model.model_copy(update={"freeze_vision": True, "cache_vision": True})
    engine = open_engine(config, model, context.input("policy"))
    try:
        yield VisionEmbedder(pool, engine, recipe.data.max_pixels)
    finally:
        engine.close()


def _open_teacher(context: StageContext) -> Teacher:
    recipe = context.recipe
    if recipe.distill.endpoint:
        return EndpointTeacher(
            recipe.distill.endpoint,
            recipe.models.teacher,
            system_prompt=recipe.model.system_prompt,
        )
    return EngineTeacher(open_engine(recipe.rollout, recipe.model, context.input("teacher")))


def _answers(
    context: StageContext,
    indexes: dict[PoolName, PoolIndex],
    requests: Sequence[Request],
    teacher: Callable[[], Teacher],
    judge: Judge | None,
) -> Iterator[TeacherRow]:
    """The verified answers of one part; a sample whose image can't be read is left out."""
    recipe = context.recipe
    samples: dict[tuple[PoolName, str], Sample] = {}
    quarantine = Quarantine()
    for name, index in indexes.items():
        wanted = [request.entry for request in requests if request.pool == name]
        with record.timed("data"):
            loaded = index.load(wanted, max_pixels=recipe.data.max_pixels, quarantine=quarantine)
            samples |= {(name, sample.id): sample for sample in loaded}
    context.left_out(quarantine)
    asked = [request for request in requests if (request.pool, request.entry.id) in samples]
    if not asked:
        return
    questions = [samples[request.pool, request.entry.id] for request in asked]
    config = recipe.distill
    seed = int(digest_of([recipe.seed, context.spec.loop, "distill"]), 16) >> 1
    replies = teacher().answer(questions, config.sampling, config.tries, seed)

    def row(answered: tuple[Request, Sample, list[Reply]]) -> TeacherRow:
        request, sample, tries = answered
        record.generated(tries)
        best = verify(sample, tries, context.spec.rewards, judge)
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
            weak_id=request.weak_id,
            similarity=request.similarity,
        )

    answered = zip(asked, questions, record.timed_each("generate", replies), strict=True)
    yield from in_order(row, answered, judge_workers(recipe.reward, judge))


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


def _write(context: StageContext, name: str, rows: Sequence[Row], schema: pa.Schema) -> None:
    write_table(context.output(name), _table(rows, schema))
    context.put(name)


def _report(
    context: StageContext,
    answered: Sequence[TeacherRow],
    rows: Sequence[MixtureRow],
    requested: int,
) -> None:
    """Counts by origin; of the weak ones what the teacher failed at, and its acceptance by family."""
    counts = context.counts
    for origin in ORIGINS:
        of = [row for row in answered if row.origin == origin]
        counts[f"asked_{origin}"] = len(of)
        counts[f"accepted_{origin}"] = sum(row.accepted for row in of)
        counts[f"rows_{origin}"] = sum(row.origin == origin for row in rows)
        if of:
            context.metric(f"acceptance_of/{origin}", counts[f"accepted_{origin}"] / len(of))
    counts["rows"] = len(rows)
    weak = [row for row in answered if row.origin == "weak"]
    counts["teacher_failed"] = sum(not row.accepted for row in weak)
    counts["teacher_tokens"] = sum(row.tokens for row in answered)
    counts["quarantined"] = requested - len(answered)
    for family in sorted({row.family for row in weak}):
        tried = [row for row in weak if row.family == family]
        accepted = sum(row.accepted for row in tried)
        counts[f"asked/{family.value}"] = len(tried)
        counts[f"accepted/{family.value}"] = accepted
        context.metric(f"acceptance/{family.value}", accepted / len(tried))

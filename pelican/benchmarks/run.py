"""One model on one benchmark: every completion is kept as it comes, the scores are written last."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict

from pelican.benchmarks.answers import Answers, Settings
from pelican.benchmarks.base import Benchmark, Clip, Context, Grade, Graded, Question
from pelican.benchmarks.load import Loaded, Placed, load, sample_of, sample_with
from pelican.benchmarks.replies import final_reply
from pelican.data.quarantine import RowError
from pelican.digest import digest_of
from pelican.engines.base import Engine
from pelican.errors import UserInputError
from pelican.evaluation.results import ResultRow, result_row, write_results
from pelican.files import replacing
from pelican.frozen import Frozen
from pelican.records import Sample, Score
from pelican.rewards.base import Unscorable
from pelican.rewards.format import format_reward, think_chars
from pelican.threads import in_order

WINDOW = 64  # questions whose media are held at once
SUCCESS = 0.5  # of a graded value, as in training
T = TypeVar("T")


class Scores(Frozen):
    """`scores.json`: points of 100 as published, and what they are over."""

    model_config = ConfigDict(protected_namespaces=())

    settings: Settings
    source: str
    metric: str
    scores: dict[str, float]
    groups: dict[str, int]
    questions: int
    not_public: int
    limit: int | None
    refused: int
    chance: float
    reasons: dict[str, int]
    quarantined: dict[str, int]
    quarantine: list[dict[str, Any]]


@dataclass(frozen=True)
class Result:
    """All of one run: rows as Pelican's evaluations have them, and the published scores."""

    rows: list[ResultRow]
    questions: list[Question]
    scores: Scores


def run_benchmark(
    benchmark: Benchmark,
    folder: Path,
    engine: Callable[[], Engine],
    settings: Settings,
    output: Path,
    *,
    context: Context,
    limit: int | None = None,
    workers: int = 1,
    progress: Callable[[int], None] = lambda done: None,
) -> Result:
    """Answer, grade, and write `results.parquet` and `scores.json` below `output`.

    The engine is opened when the first question is without its completion: a run that was cut off
    goes on, and one that is complete is graded again.
    """
    answers = Answers(output / "answers.jsonl", settings)
    loaded = Loaded()
    opened: Engine | None = None
    done: list[tuple[Question, ResultRow]] = []
    questions = islice(load(benchmark, folder, loaded), limit)

    def grade(item: Placed) -> Grade | RowError:
        question = item[2]
        reply = final_reply(answers.rollouts[question.id].completion)
        try:
            return benchmark.grade(question, reply, context)
        except RowError as error:  # the mask
            return error
        except Unscorable as failure:  # the judge refuses
            return Grade(0.0, reply.text[:200], failure.reason)

    try:
        for window in _windows(questions, WINDOW):
            todo = _unanswered(benchmark, folder, settings, window, answers, loaded)
            if todo:
                opened = opened or engine()
                groups = opened.generate(todo, settings.sampling, 1, settings.seed)
                refused: dict[str, str] = getattr(opened, "refused", {})
                for sample, (rollout,) in zip(todo, groups, strict=True):
                    answers.add(rollout, sample.span_s, refused.get(sample.id, ""))
                    progress(len(answers.rollouts))
            usable = [item for item in window if item[2].id in answers.rollouts]
            grades = in_order(grade, usable, workers)
            for (file, number, question), graded in zip(usable, grades, strict=True):
                if isinstance(graded, RowError):
                    loaded.quarantine.add(file, number, question.id, graded)
                    continue
                row = _row(benchmark, question, answers, graded)
                done.append((replace(question, media=(), mask=None), row))  # pictures are large
    finally:
        if opened is not None:
            opened.close()
    return _conclude(benchmark, settings, output, done, answers, loaded, limit)


def _unanswered(
    benchmark: Benchmark,
    folder: Path,
    settings: Settings,
    window: Sequence[Placed],
    answers: Answers,
    loaded: Loaded,
) -> list[Sample]:
    """The questions without a completion, their media read; what can't be read is quarantined."""
    samples: list[Sample] = []
    limits = {"frames": settings.frames, "max_pixels": settings.max_pixels}
    for file, number, question in window:
        if question.id in answers.rollouts:
            continue
        try:
            samples.append(sample_of(benchmark, question, folder, **limits))
        except RowError as error:
            loaded.quarantine.add(file, number, question.id, error)
    return samples


def _windows(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while window := list(islice(items, size)):
        yield window


def _row(benchmark: Benchmark, question: Question, answers: Answers, graded: Grade) -> ResultRow:
    rollout = answers.rollouts[question.id]
    refused = answers.refused.get(question.id)
    span_s = answers.spans_s[question.id]
    times = [0.0, span_s] if span_s > 0 and isinstance(question.media, Clip) else [0.0]
    # A row tells of the media only how long the clip is; they need not be read again.
    sample = sample_with(benchmark, question, len(times) > 1, times, [b"-"] * len(times))
    formatted = format_reward(rollout.completion, max_think_chars=1 << 30)
    score = Score(
        sample_id=sample.id,
        index=0,
        reward=graded.value,
        format=formatted,
        task=graded.value,
        success=graded.value >= SUCCESS,
        think_chars=think_chars(rollout.completion),
        answer=graded.answer[:500].encode("utf-8", "replace").decode(),
        reason=f"refused: {refused}" if refused else graded.reason,
    )
    return result_row(sample, benchmark.suite, rollout, score)


def _conclude(
    benchmark: Benchmark,
    settings: Settings,
    output: Path,
    done: list[tuple[Question, ResultRow]],
    answers: Answers,
    loaded: Loaded,
    limit: int | None,
) -> Result:
    if not done:
        first = f"; first: {loaded.quarantine.rows[0]}" if loaded.quarantine.rows else ""
        raise UserInputError(
            f"no question of {benchmark.title} in {settings.data} can be scored"
            f" ({len(loaded.quarantine)} quarantined, {loaded.not_public} without a public answer"
            f"{first})"
        )
    rows = [row for _, row in done]
    graded = [Graded(question.group, row["task"]) for question, row in done]
    scores = Scores(
        settings=settings,
        source=benchmark.source,
        metric=benchmark.metric,
        scores=benchmark.scores(graded),
        groups=dict(sorted(Counter(one.group for one in graded).items())),
        questions=len(done),
        not_public=loaded.not_public,
        limit=limit,
        refused=sum(row["sample_id"] in answers.refused for row in rows),
        chance=100 * sum(row["chance"] for row in rows) / len(rows),
        reasons=dict(Counter(row["reason"].partition(":")[0] for row in rows if row["reason"])),
        quarantined=loaded.quarantine.counts,
        quarantine=loaded.quarantine.notes(),
    )
    write_results(output / "results.parquet", rows)
    write_json(output / "scores.json", scores.model_dump(mode="json"))
    return Result(rows, [question for question, _ in done], scores)


def write_json(path: Path, value: object) -> None:
    """Under a temporary name, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")


def checkpoint_stamp(checkpoint: Path) -> str:
    """Tells two checkpoints apart by their files' names, sizes and times of writing."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    return digest_of(
        [
            [path.relative_to(checkpoint).as_posix(), stat.st_size, stat.st_mtime_ns]
            for path in files
            for stat in [path.stat()]
        ]
    )

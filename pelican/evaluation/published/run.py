"""One model on one benchmark: every completion is kept as it comes, the scores are written last."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict

from pelican.base.files import replacing
from pelican.base.model import Frozen, digest_of
from pelican.base.parse import parse_json
from pelican.base.process import in_order
from pelican.config.recipe import Sampling
from pelican.data.formats.base import json_rows
from pelican.data.tables import RowError
from pelican.engines.base import Engine, rollout_seed
from pelican.errors import UserInputError
from pelican.evaluation.metrics import ResultRow, result_row, write_results
from pelican.evaluation.published.base import (
    Benchmark,
    Clip,
    Context,
    Grade,
    Graded,
    Question,
    final_reply,
)
from pelican.evaluation.published.load import LeftOut, Placed, load, sample_of, sample_with
from pelican.records import Rollout, Sample, Score
from pelican.rewards.base import Unscorable, reason_class
from pelican.rewards.score import format_reward, think_chars

# `run_benchmark`: questions are answered in windows, graded, and the scores written last.

WINDOW = 64  # questions whose media are held at once
SUCCESS = 0.5  # of a graded value, as in training
T = TypeVar("T")


class Settings(Frozen):
    """What determines the completions; another value needs another folder."""

    model_config = ConfigDict(protected_namespaces=())

    benchmark: str
    data: str
    model: str
    sampling: Sampling
    frames: int
    max_pixels: int
    system_prompt: str | None = None
    seed: int = 0


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
    """Answer and grade every question; write `results.parquet` and `scores.json` below `output`.

    Args:
        benchmark: Its module's rules.
        folder: Its published files.
        engine: Opens what answers; called when the first question is without its completion. So a run
            that was cut off goes on, and one that is complete is graded again.
        settings: What determines the completions.
        output: Gets the files; completions are kept there as they come.
        context: What the benchmark's rule grades with.
        limit: Only so many questions; None: all.
        workers: Answers that are graded at a time.
        progress: Called with the number of graded questions.

    Raises:
        UserInputError: No question could be used.
    """
    answers = Answers(output / "answers.jsonl", settings)
    left_out = LeftOut()
    opened: Engine | None = None
    done: list[tuple[Question, ResultRow]] = []
    questions = islice(load(benchmark, folder, left_out), limit)

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
            todo = _unanswered(benchmark, folder, settings, window, answers, left_out)
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
                    left_out.quarantine.add(file, number, question.id, graded)
                    continue
                row = _row(benchmark, question, answers, graded)
                done.append((replace(question, media=(), mask=None), row))  # pictures are large
    finally:
        if opened is not None:
            opened.close()
    return _conclude(benchmark, settings, output, done, answers, left_out, limit)


def _unanswered(
    benchmark: Benchmark,
    folder: Path,
    settings: Settings,
    window: Sequence[Placed],
    answers: Answers,
    left_out: LeftOut,
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
            left_out.quarantine.add(file, number, question.id, error)
    return samples


def _windows(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while window := list(islice(items, size)):
        yield window


def _row(benchmark: Benchmark, question: Question, answers: Answers, graded: Grade) -> ResultRow:
    rollout = answers.rollouts[question.id]
    refused = answers.refused.get(question.id)
    span_s = answers.spans_s[question.id]
    times = [0.0, span_s] if span_s > 0 and isinstance(question.media, Clip) else [0.0]
    # Of the media a row keeps the length of the clip alone, so they need not be read again.
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
    left_out: LeftOut,
    limit: int | None,
) -> Result:
    if not done:
        first = f"; first: {left_out.quarantine.rows[0]}" if left_out.quarantine.rows else ""
        raise UserInputError(
            f"no question of {benchmark.title} in {settings.data} can be scored"
            f" ({len(left_out.quarantine)} quarantined, {left_out.not_public} without a public answer"
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
        not_public=left_out.not_public,
        limit=limit,
        refused=sum(row["sample_id"] in answers.refused for row in rows),
        chance=100 * sum(row["chance"] for row in rows) / len(rows),
        reasons=dict(Counter(reason_class(row["reason"]) for row in rows if row["reason"])),
        quarantined=left_out.quarantine.counts,
        quarantine=left_out.quarantine.notes(),
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
    """A digest of the names, sizes and times of a checkpoint's files, which tells it from another."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    return digest_of(
        [
            [path.relative_to(checkpoint).as_posix(), stat.st_size, stat.st_mtime_ns]
            for path in files
            for stat in [path.stat()]
        ]
    )


# `answers.jsonl`: completions are kept as they come, so a run that was cut off goes on.


class Answers:
    """`answers.jsonl`: the settings, then a completion per line, kept as they come."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self._path = path
        self.rollouts: dict[str, Rollout] = {}
        self.refused: dict[str, str] = {}
        self.spans_s: dict[str, float] = {}
        self._head = head = json.dumps({"settings": settings.model_dump(mode="json")})
        if not path.exists():
            return
        lines = path.read_text(encoding="utf-8").split("\n")
        if lines[0] != head:
            raise UserInputError(
                f"{path.parent} holds the answers of other settings or data; give another --output"
                " or delete it"
            )
        whole = [lines[0]]
        for line in lines[1:-1]:  # a line that was cut off has no end
            try:
                kept = parse_json(line)
                rollout = Rollout.model_validate(kept["rollout"])
            except (ValueError, KeyError, TypeError):
                continue
            whole.append(line)
            self.rollouts[rollout.sample_id] = rollout
            self.spans_s[rollout.sample_id] = float(kept.get("span_s") or 0.0)
            if kept.get("refused"):
                self.refused[rollout.sample_id] = str(kept["refused"])
        path.write_text("\n".join(whole) + "\n", encoding="utf-8")

    def add(self, rollout: Rollout, span_s: float, refused: str) -> None:
        """Keep one completion, the length of its clip, and why the endpoint gave none."""
        self.rollouts[rollout.sample_id] = rollout
        self.spans_s[rollout.sample_id] = span_s
        if refused:
            self.refused[rollout.sample_id] = refused
        kept = {"rollout": rollout.model_dump(mode="json"), "span_s": span_s, "refused": refused}
        if not self._path.exists():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(self._head + "\n", encoding="utf-8")
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(kept, ensure_ascii=False) + "\n")


# Recorded replies: what another program wrote is graded as if a model gave it now.

IDS = ("id", "question_id", "sample_id", "uid", "q_uid")
REPLIES = ("reply", "completion", "response", "prediction", "pred", "output", "answer", "text")


class RecordedEngine(Engine):
    """An engine that looks replies up. A question without one has an empty reply, in `refused`."""

    def __init__(self, replies: Mapping[str, str]) -> None:
        self.refused: dict[str, str] = {}
        self._replies = replies

    def generate(
        self, samples: Iterable[Sample], sampling: Sampling, n: int, seed: int
    ) -> Iterator[list[Rollout]]:
        for sample in samples:
            if sample.id not in self._replies:
                self.refused[sample.id] = "the file has no reply to it"
            yield [
                Rollout(
                    sample_id=sample.id,
                    index=0,
                    seed=rollout_seed(seed, sample.id, 0),
                    completion=self._replies.get(sample.id, ""),
                    tokens=0,
                    finish="stop",
                )
            ]


def read_replies(path: Path, benchmark: str) -> dict[str, str]:
    """Question -> reply of a JSON file of rows, or JSON lines. Raises UserInputError with the row.

    An id may lack the name of `benchmark`: of erqa, "7" and "erqa-7" are the same.
    """
    prefix = f"{benchmark}-"
    found: dict[str, str] = {}
    for row in json_rows(path):
        where = f"{path}, row {row.number}"
        if row.error is not None:
            raise UserInputError(f"{where}: {row.error.reason}")
        name, reply = _first(row.value, IDS), _first(row.value, REPLIES)
        if name is None or reply is None:
            lacking, names = ("id", IDS) if name is None else ("reply", REPLIES)
            raise UserInputError(f"{where} has no {lacking}; it may be called {', '.join(names)}")
        name = name if name.startswith(prefix) else f"{prefix}{name}"
        if name in found:
            raise UserInputError(
                f"{where}: question {name!r} has a reply in an earlier row; keep one"
            )
        found[name] = reply
    return found


def _first(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of `names` that holds a text or a number, as text; an empty text is one."""
    return next((text for name in names if (text := scalar(row.get(name))) is not None), None)


def scalar(value: object) -> str | None:
    """A text or a number as text, None of anything else."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    return None


def check_replies(
    benchmark: Benchmark, folder: Path, replies: Mapping[str, str], where: Path
) -> tuple[int, int]:
    """(questions, those with a reply). Raises UserInputError if no reply is to a question here."""
    names = [question.id for _, _, question in load(benchmark, folder, LeftOut())]
    answered = sum(name in replies for name in names)
    if names and not answered:
        example = f"; they are named like {names[0]!r}, those in the file like"
        raise UserInputError(
            f"{where} has no reply to a question of {benchmark.title} in {folder}{example}"
            f" {next(iter(replies), '')!r}"
        )
    return len(names), answered


# Results in the files that lmms-eval writes: `<date>_results.json`, `<date>_samples_<task>.jsonl`.
#
# Follows lmms_eval/loggers/evaluation_tracker.py of EvolvingLMMs-Lab/lmms-eval at 75571cf.


def write_lmms_results(result: Result, model: str, output: Path, started: datetime) -> Path:
    """Write a result as lmms-eval would, with scores as shares of 1.

    Args:
        result: Scores and rows.
        model: Names the folder, `output/lmms-eval/<model>/`.
        output: The folder of the benchmark's results.
        started: Names the files, `<date>_results.json` and `<date>_samples_<task>.jsonl`.

    Returns:
        The path of the first.
    """
    settings = result.scores.settings
    task = f"pelican_{settings.benchmark}"
    name = re.sub(r"[\"<>:/|\\?*\[\]]+", "__", model)
    folder = output / "lmms-eval" / name
    date = f"{started:%Y%m%d_%H%M%S}"
    finished = datetime.now(started.tzinfo)
    samples = [_sample(i, result) for i in range(len(result.rows))]
    hashes = "".join(f"sample_{i}{sample['doc_hash']}" for i, sample in enumerate(samples))
    scores = {f"{key},none": value / 100 for key, value in result.scores.scores.items()}
    tree: dict[str, Any] = {
        "results": {task: {"alias": task, **scores}},
        "group_subtasks": {task: []},
        "configs": {
            task: {
                "task": task,
                "dataset_path": settings.data,
                "output_type": "generate_until",
                "generation_kwargs": settings.sampling.model_dump(),
                "metadata": {"source": result.scores.source, "metric": result.scores.metric},
            }
        },
        "versions": {task: "pelican"},
        "n-shot": {task: 0},
        "higher_is_better": {task: dict.fromkeys(result.scores.scores, True)},
        "n-samples": {
            task: {
                "original": result.scores.questions + sum(result.scores.quarantined.values()),
                "effective": result.scores.questions,
            }
        },
        "config": {
            "model": "pelican",
            "model_args": model,
            "limit": result.scores.limit,
            "gen_kwargs": settings.sampling.model_dump(),
            "random_seed": settings.seed,
        },
        "date": date,
        "task_hashes": {task: hashlib.sha256(hashes.encode()).hexdigest()},
        "model_source": "pelican",
        "model_name": model,
        "model_name_sanitized": name,
        "start_time": started.timestamp(),
        "end_time": finished.timestamp(),
        "total_evaluation_time_seconds": str((finished - started).total_seconds()),
    }
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(sample, ensure_ascii=False) for sample in samples)
    (folder / f"{date}_samples_{task}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    path = folder / f"{date}_results.json"
    write_json(path, tree)
    return path


def _sample(number: int, result: Result) -> dict[str, Any]:
    row, question = result.rows[number], result.questions[number]
    doc = json.dumps([question.id, question.prompt, question.truth], ensure_ascii=False)
    return {
        "doc_id": number,
        "target": question.truth,
        "filtered_resps": [row["completion"]],
        "doc_hash": hashlib.sha256(doc.encode()).hexdigest(),
        "input": question.prompt,
        "overall": {
            "id": question.id,
            "sub_task": question.group,
            "pred_parsed": row["answer"],
            "score": row["task"],
        },
    }

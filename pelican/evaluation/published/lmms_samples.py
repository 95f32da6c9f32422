"""Sample files of lmms-eval (`<date>_samples_<task>.jsonl`) as recorded replies.

A row has `doc_id`, the number of the question in its task, `target`, `resps` (what the model said) and
`filtered_resps` (what the task's filters left of it), and what the task's metrics noted, often with
the question's own id: lmms_eval/loggers/evaluation_tracker.py of EvolvingLMMs-Lab/lmms-eval at 75571cf.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from pelican.data.formats.base import json_rows
from pelican.data.tables import RowError
from pelican.errors import UserInputError
from pelican.evaluation.published.base import Benchmark, Question
from pelican.evaluation.published.run import IDS, scalar

REPLIES = ("resps", "filtered_resps")
_LINE = 20  # characters of a prompt's line that two questions hardly share


def is_lmms_samples(path: Path) -> bool:
    """Whether the first row of a file is one of lmms-eval."""
    first = next(json_rows(path), None)
    row = first.value if first is not None else None
    return isinstance(row, dict) and "doc_id" in row and any(name in row for name in REPLIES)


def read_lmms_samples(path: Path, benchmark: Benchmark, folder: Path) -> dict[str, str]:
    """Question -> reply.

    A question is found by the id that a metric noted, else as the `doc_id`-th of the benchmark, or of
    that file of it after which the task is named; its target or a line of its prompt must then be
    the row's.

    Args:
        path: The sample file.
        benchmark: What it is about.
        folder: The benchmark's published files.

    Raises:
        UserInputError: A row has no reply or several, or is about another question than here.
    """
    questions = _questions(benchmark, folder, path.stem)
    known = {question.id: question for question in questions if question is not None}
    found: dict[str, str] = {}
    for row in json_rows(path):
        where = f"{path}, row {row.number}"
        if row.error is not None:
            raise UserInputError(f"{where}: {row.error.reason}")
        question = known.get(_noted_id(row.value, benchmark.name, known))
        if question is None:
            number = row.value.get("doc_id")
            inside = isinstance(number, int) and 0 <= number < len(questions)
            if not inside:
                raise UserInputError(
                    f"{where}: doc_id is {number!r:.40}, and {benchmark.title} has {len(questions)}"
                    " questions here"
                )
            question = questions[number]
            if question is None:  # it can't be used here either
                continue
            if not _same(row.value, question):
                raise UserInputError(
                    f"{where}: doc_id {number} is another question in {folder} (target"
                    f" {str(row.value.get('target'))!r:.80}, here {question.truth!r:.80}); give the data"
                    " in the order in which lmms-eval read them, or a file of ids and replies"
                )
        if question.id in found:
            raise UserInputError(
                f"{where}: question {question.id!r} has a reply in an earlier row; keep one"
            )
        found[question.id] = _reply(row.value, where)
    return found


def _questions(benchmark: Benchmark, folder: Path, stem: str) -> list[Question | None]:
    """Every question in the published order, None for a row that can't be used.

    Tasks of a group have a file each: of `samples_mvbench_action_count` those of action_count.json.
    """
    found: list[tuple[str, Question | None]] = []
    for file, row in benchmark.rows(folder):
        try:
            question = benchmark.question(row, folder)
        except (RowError, TypeError, ValueError, KeyError, AttributeError):
            question = None
        # Pictures are large, and there may be thousands.
        found.append((file, question and replace(question, media=(), mask=None)))
    task = stem.lower().partition("_samples_")[2]
    own = {file for file, _ in found if any(task.endswith(f"_{n}") for n in _names(file))}
    return [question for file, question in found if not own or file in own]


def _names(file: str) -> list[str]:
    """What a task may be called after a file: its own name, or its folder's."""
    path = PurePosixPath(file.lower())
    return [name for name in (path.stem, path.parent.name) if len(name) > 3]


def _noted_id(row: Mapping[str, Any], benchmark: str, known: Mapping[str, Question]) -> str:
    """The question's id among what the metrics noted; "" if none is one of `known`."""
    for noted in row.values():
        for name in IDS if isinstance(noted, Mapping) else ():
            id = scalar(noted.get(name))
            for wanted in (id, f"{benchmark}-{id}"):
                if id is not None and wanted in known:
                    return str(wanted)
    return ""


def _same(row: Mapping[str, Any], question: Question) -> bool:
    """Whether the target is the question's truth or its option, or a line of its prompt was asked."""
    truth = question.truth.strip()
    at = ord(truth) - ord("A") if len(truth) == 1 else -1
    option = question.options[at] if 0 <= at < len(question.options) else truth
    target = str(row.get("target")).strip().casefold()
    if target in {form.casefold() for form in (truth, option, f"{truth}. {option}")}:
        return True
    asked = row.get("input")
    text = asked if isinstance(asked, str) else json.dumps(asked, ensure_ascii=False)
    lines = (line.strip() for line in question.prompt.splitlines())
    return any(len(line) >= _LINE and line in text for line in lines)


def _reply(row: Mapping[str, Any], where: str) -> str:
    """The one reply of a row, out of the lists that lmms-eval puts around it."""
    for name in REPLIES:
        value = row.get(name)
        while isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 1:
            value = value[0]
        if isinstance(value, str):
            return value
        if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
            raise UserInputError(f"{where} has {len(value)} replies in {name}; keep one")
    raise UserInputError(f"{where} has no reply as text in {' or '.join(REPLIES)}")

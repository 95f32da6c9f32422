"""Replies that somebody else's program wrote, graded as if a model gave them now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pelican.benchmarks.base import Benchmark
from pelican.benchmarks.load import Loaded, load
from pelican.data.readers.source import json_rows
from pelican.engines.base import Engine, rollout_seed
from pelican.errors import UserInputError
from pelican.recipe import Sampling
from pelican.records import Rollout, Sample

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
            raise UserInputError(f"{where}: question {name!r} has a reply before")
        found[name] = reply
    return found


def _first(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of `names` that holds a text or a number, as text; an empty text is one."""
    for name in names:
        value = row.get(name)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return str(value)
    return None


def check_replies(
    benchmark: Benchmark, folder: Path, replies: Mapping[str, str], where: Path
) -> tuple[int, int]:
    """(questions, those with a reply). Raises UserInputError if no reply is to a question here."""
    names = [question.id for _, _, question in load(benchmark, folder, Loaded())]
    answered = sum(name in replies for name in names)
    if names and not answered:
        example = f"; they are named like {names[0]!r}, those in the file like"
        raise UserInputError(
            f"{where} has no reply to a question of {benchmark.title} in {folder}{example}"
            f" {next(iter(replies), '')!r}"
        )
    return len(names), answered

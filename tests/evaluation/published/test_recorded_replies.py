"""Replies of another program, scored without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pelican.cli.benchmark import run
from pelican.errors import UserInputError
from pelican.evaluation.published.run import read_replies
from tests.evaluation.published.layouts import LAYOUTS


def score(data: Path, replies: Path, output: Path, name: str = "vsibench") -> dict[str, Any]:
    run(
        name,
        data,
        str(replies),
        "tiny",
        [],
        output=output,
        limit=None,
        frames=4,
        served_model=None,
        concurrency=1,
        judge=None,
        judge_model=None,
    )
    found: dict[str, Any] = json.loads((output / "scores.json").read_text())
    return found


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("rows", "overall", "refused"),
    [
        ([{"id": 0, "reply": "4"}, {"id": 1, "reply": "B."}], 200 / 3, 0),
        ([{"question_id": "0", "answer": 4}, {"question_id": "1", "answer": "A"}], 50.0, 0),
        ([{"id": 0, "pred": "<think>3 and 1</think><answer>4</answer>"}], 50.0, 1),
        ([{"id": 0, "reply": ""}, {"id": 1, "reply": "B"}, {"id": 99, "reply": "B"}], 50 / 3, 0),
    ],
)
def test_replies_are_scored_and_a_missing_one_counts_as_wrong(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rows: list[dict[str, Any]],
    overall: float,
    refused: int,
) -> None:
    LAYOUTS["vsibench"](tmp_path / "data")
    found = score(tmp_path / "data", lines(tmp_path / "mine.jsonl", *rows), tmp_path / "out")
    # Of three difficulties of direction one is there: the published mean is over all three.
    assert found["scores"]["overall"] == pytest.approx(overall)
    assert found["refused"] == refused
    said = capsys.readouterr().out
    assert ("no reply" in said) == bool(refused)
    assert ("1 replies are to no question" in said) == any(row.get("id") == 99 for row in rows)


def test_files_that_can_not_be_scored_end_in_one_sentence(tmp_path: Path) -> None:
    LAYOUTS["vsibench"](tmp_path / "data")
    cases: list[tuple[list[dict[str, Any]], str]] = [
        (
            [{"id": "q-7", "reply": "4"}],
            r"named like 'vsibench-0', those in the file like 'vsibench-q-7'",
        ),
        ([{"reply": "4"}], r"row 1 has no id; it may be called id, question_id"),
        ([{"id": 0, "said": "4"}], r"row 1 has no reply; it may be called reply"),
        (
            [{"id": 0, "reply": "4"}, {"id": "0", "reply": "5"}],
            r"row 2: question 'vsibench-0' has a reply",
        ),
    ]
    for rows, sentence in cases:
        replies = lines(tmp_path / "mine.jsonl", *rows)
        with pytest.raises(UserInputError, match=sentence):
            score(tmp_path / "data", replies, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine.jsonl").write_text('{"id": 0, "rep')
    with pytest.raises(UserInputError, match=r"row 1: not JSON"):
        read_replies(tmp_path / "mine.jsonl", "erqa")
    good = lines(tmp_path / "good.jsonl", {"id": "erqa-1", "text": ""}, {"id": 2, "text": "B"})
    assert read_replies(good, "erqa") == {"erqa-1": "", "erqa-2": "B"}

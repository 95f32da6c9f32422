"""Replies of another program, scored without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pelican.cli.benchmark import run
from pelican.errors import UserInputError
from pelican.evaluation.published.run import read_replies
from tests.evaluation.published.layouts import LAYOUTS, image, inline, parquet, write


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


def test_replies_in_the_notations_of_several_models_are_points(tmp_path: Path) -> None:
    """Molmo's tags and Gemini's keys, as RefSpatial-Bench's own code reads them."""
    replies = (
        "[(0.6, 0.4)]",
        '<point x="60.0" y="40.0" alt="disc">disc</point>',
        '<points x1="60.0" y1="40.0" x2="61.0" y2="41.0" alt="disc">disc</points>',
        '```json\n[{"point": [400, 600], "label": "disc"}]\n```',
    )
    rows = []
    for task in ("Location", "Placement", "Unseen"):
        asked = []
        for number, reply in enumerate(replies):
            paths = {"rgb_path": f"image/{number}.png", "mask_path": f"mask/{number}.png"}
            asked.append(
                {"id": number, "object": "disc", "prompt": "Point.", "suffix": "?", **paths}
            )
            image(tmp_path / "data" / task / paths["rgb_path"], number)
            pixels = np.zeros((10, 20), np.uint8)
            pixels[3:6, 11:14] = 255  # around (12, 4), which is (0.6, 0.4)
            mask = tmp_path / "data" / task / paths["mask_path"]
            mask.parent.mkdir(exist_ok=True)
            Image.fromarray(pixels).save(mask)
            rows.append({"id": f"{task.lower()}-{number}", "reply": reply})
        write(tmp_path / "data" / task / "question.json", asked)
    replies_file = lines(tmp_path / "replies.jsonl", *rows)
    found = score(tmp_path / "data", replies_file, tmp_path / "out", "refspatial")
    every = dict.fromkeys(("overall", "Location", "Placement", "Unseen"), 100.0)
    assert found["scores"] == every and found["questions"] == 12


def test_boxes_and_text_around_a_letter_cost_nothing(tmp_path: Path) -> None:
    ask = {"question": "Which?", "question_type": "Spatial Reasoning", "answer": "C"}
    replies = (
        "<think>so</think><answer>C</answer>",
        "<think>so</think><answer>\\boxed{C}</answer>",
        "<think>so</think>\\boxed{\\text{C}}",
    )
    rows = [{**ask, "question_id": f"q{i}", "images": [inline(i)]} for i in range(len(replies))]
    parquet(tmp_path / "data" / "test-00000-of-00001.parquet", rows)
    said = [{"id": f"q{i}", "reply": reply} for i, reply in enumerate(replies)]
    replies_file = lines(tmp_path / "replies.jsonl", *said)
    found = score(tmp_path / "data", replies_file, tmp_path / "out", "erqa")
    assert found["scores"] == {"overall": 100.0, "Spatial Reasoning": 100.0}


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


def asked(number: int, target: str, reply: Any, **more: Any) -> dict[str, Any]:
    """A row as lmms-eval writes it."""
    return {"doc_id": number, "target": target, "doc_hash": "0", "input": "-", **reply, **more}


NOTED = {"vsibench_overall": {"id": 1, "prediction": "B."}}
THOUGHT = ["<think>3 and 1</think><answer>4</answer>"]
# Rows of a samples file, the score of VSI-Bench's two questions (4, then B), questions without a reply.
SAMPLE_FILES: list[tuple[list[dict[str, Any]], float, int]] = [
    ([asked(0, "4", {"filtered_resps": "4"}), asked(1, "B", {"filtered_resps": "B."})], 200 / 3, 0),
    ([asked(1, "B", {"filtered_resps": ["A"]}), asked(0, "4", {"filtered_resps": ["4"]})], 50.0, 0),
    # What the model said before the filters is read by the benchmark's own rule.
    ([asked(0, "4", {"resps": THOUGHT, "filtered_resps": "3"})], 50.0, 1),
    ([asked(0, "4", {"resps": [THOUGHT], "filtered_resps": [["4"]]})], 50.0, 1),
    # The id that a metric noted goes before the number, which a shuffled run has otherwise.
    ([asked(0, "B", {"filtered_resps": "B."}, **NOTED)], 100 / 6, 1),
    # A prompt is recognised where the target is written in another way.
    ([asked(0, "four", {"filtered_resps": "4"}, input="…\nHow many chairs are in the room?\n…")], 50.0, 1),
    ([asked(2, "0", {"filtered_resps": "0"}), asked(0, "4", {"filtered_resps": "4"})], 50.0, 1),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "overall", "refused"), SAMPLE_FILES)
def test_a_samples_file_of_lmms_eval_is_a_file_of_replies(
    tmp_path: Path, rows: list[dict[str, Any]], overall: float, refused: int
) -> None:
    LAYOUTS["vsibench"](tmp_path / "data")
    where = tmp_path / "data" / "test.jsonl"
    where.write_text(
        where.read_text().replace("How many chairs?", "How many chairs are in the room?")
    )
    file = lines(tmp_path / "20261130_120000_samples_vsibench.jsonl", *rows)
    found = score(tmp_path / "data", file, tmp_path / "out")
    assert found["scores"]["overall"] == pytest.approx(overall)
    assert found["refused"] == refused


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([asked(0, "B", {"filtered_resps": "4"})], "doc_id 0 is another question .*'B', here '4'"),
        (
            [asked(7, "B", {"filtered_resps": "4"})],
            "doc_id is 7, and VSI-Bench has 3 questions here",
        ),
        ([asked(0, "4", {"resps": ["4", "5"]})], "row 1 has 2 replies in resps; keep one"),
        ([asked(0, "4", {"resps": [[[-1.5, False]]]})], "row 1 has no reply as text in resps or"),
        (
            [asked(0, "4", {"resps": "4"})] * 2,
            "row 2: question 'vsibench-0' has a reply in an earlier",
        ),
    ],
)
def test_a_samples_file_of_other_questions_ends_in_one_sentence(
    tmp_path: Path, rows: list[dict[str, Any]], sentence: str
) -> None:
    LAYOUTS["vsibench"](tmp_path / "data")
    with pytest.raises(UserInputError, match=sentence):
        score(tmp_path / "data", lines(tmp_path / "s.jsonl", *rows), tmp_path / "out")


def test_a_task_of_a_group_is_found_by_its_name(tmp_path: Path) -> None:
    LAYOUTS["mvbench"](tmp_path / "data")
    row = asked(0, "close", {"filtered_resps": "B"})  # the first of the second file
    file = lines(tmp_path / "1_samples_mvbench_action_sequence.jsonl", row)
    found = score(tmp_path / "data", file, tmp_path / "out", "mvbench")
    assert (found["scores"]["action_sequence"], found["scores"]["action_count"]) == (100, 0)


def test_what_a_benchmark_writes_for_lmms_eval_is_read_back(tmp_path: Path) -> None:
    LAYOUTS["vsibench"](tmp_path / "data")
    replies = lines(tmp_path / "mine.jsonl", {"id": 0, "reply": "4"}, {"id": 1, "reply": "A"})
    first = score(tmp_path / "data", replies, tmp_path / "out")
    (written,) = (tmp_path / "out").rglob("*_samples_*.jsonl")
    again = score(tmp_path / "data", written, tmp_path / "again")
    assert again["scores"] == first["scores"]

"""Labels of a judge model: majority, confidence, what it may not choose, correction by hand."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pelican.cli.main import app
from pelican.data.importing.labels import correct_labels, judge_labels
from pelican.data.versions import LABELS, list_versions, read_version
from pelican.errors import InfrastructureError, PelicanError, UserInputError
from tests.data.formats.world import image, imported, write_json
from tests.rewards.endpoint import Endpoint, judging

QUESTIONS = [  # question, answer, what the rules make of it
    ("What colour is the cup?", "red", "general"),
    ("Is the drawer open?", "Yes", "general"),
    ("How many cups are there?", "3", "counting"),
]
SUCCESS = "family: success, dimension: scene_action_understanding"


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with judging() as made:
        made.config = made.config.model_copy(update={"workers": 1})
        yield made


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    image(tmp_path / "lab" / "0.jpg")
    rows = [
        {
            "id": str(number),
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ],
            "images": ["0.jpg"],
        }
        for number, (question, answer, _) in enumerate(QUESTIONS)
    ]
    write_json(tmp_path / "lab" / "train.json", rows)
    return imported(tmp_path / "lab", tmp_path / "pool").pool


def labels(pool: Path) -> dict[str, tuple[str, float, str]]:
    rows = pq.read_table(pool / "part-00000.parquet").to_pylist()
    return {row["id"][-1]: (row["family"], row["confidence"], row["rule"]) for row in rows}


def judged(pool: Path, endpoint: Endpoint, below: float = 0.5) -> tuple[int, int, int]:
    found = judge_labels(pool, endpoint.config, below, lambda asked: None)
    return found.asked, found.labelled, found.moved


def test_only_what_rules_were_not_sure_of_is_asked_about(pool: Path, endpoint: Endpoint) -> None:
    before = labels(pool)
    assert [before[str(i)][0] for i in range(3)] == [family for *_, family in QUESTIONS]
    assert before["2"][1] == 0.9
    endpoint.replies = [
        "family: general, dimension: perception_grounding",
        "**Family:** General; **Dimension:** perception_grounding.",
        SUCCESS, "I can't say.", "<think>family: general?</think>\nFAMILY = success, dimension = "
        "scene_action_understanding",
    ]  # fmt: skip
    assert judged(pool, endpoint) == (2, 2, 1)
    assert labels(pool) == {
        "0": ("general", 0.9, "judge judge"),  # it agreed: two of two
        "1": ("success", 0.6, "judge judge"),  # two of three
        "2": before["2"],
    }
    prompt = endpoint.asked[0]["messages"][0]["content"]
    assert "What colour is the cup?" in prompt


def test_a_judge_is_asked_once_and_its_label_is_a_version(pool: Path, endpoint: Endpoint) -> None:
    first = read_version(pool)
    endpoint.replies = [SUCCESS, SUCCESS, "no", "no", "no"]
    judged(pool, endpoint)
    second = read_version(pool)
    assert first and second and second.parent == first.id
    assert second.notes == ("1 rows were labelled by the judge judge",)
    asked = len(endpoint.asked)
    # The row without a majority is asked about again, and its replies are those that were kept.
    assert judged(pool, endpoint) == (1, 0, 0) and len(endpoint.asked) == asked
    assert list_versions(pool) == [first.id, second.id]


@pytest.mark.parametrize(
    "replies",
    [
        ["family: prediction, dimension: physical_causal", "general", "dimension: physical_causal"],
        [SUCCESS, "family: planning, dimension: decision_planning", "no"],
        ["family: robots, dimension: spatial", "", "I will not"],
        [400, 400, 400],
    ],
)
def test_without_a_majority_a_row_stays_as_the_rules_had_it(
    pool: Path, endpoint: Endpoint, replies: list[Any]
) -> None:
    before = labels(pool)
    endpoint.replies = [*replies, *replies]
    assert judged(pool, endpoint)[1:] == (0, 0)
    assert labels(pool) == before


def test_a_family_without_a_reward_for_the_answer_is_no_vote(
    tmp_path: Path, endpoint: Endpoint
) -> None:
    image(tmp_path / "lab" / "0.jpg")
    turns = [("user", "Show the cup."), ("assistant", "[(0.5, 0.5)]")]
    row = {
        "id": "0",
        "messages": [{"role": role, "content": text} for role, text in turns],
        "images": ["0.jpg"],
    }
    write_json(tmp_path / "lab" / "train.json", [row])
    pool = imported(tmp_path / "lab", tmp_path / "pool").pool
    endpoint.always = "family: counting, dimension: quantitative_numerical"
    assert judged(pool, endpoint, below=1.0) == (1, 0, 0)
    families = endpoint.asked[0]["messages"][0]["content"].split("<<<")[0]
    assert "- affordance:" in families and "- counting:" not in families


def test_a_person_has_the_last_word(pool: Path, endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.always = SUCCESS
    assert judged(pool, endpoint)[1] == 2
    with (pool / LABELS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    shown = {row["id"][-1]: (row["family"], row["confidence"], row["rule"]) for row in rows}
    assert shown["0"] == ("success", "0.90", "judge judge")
    for row in rows:
        if row["id"].endswith("0"):
            row["family"] = "general"
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert correct_labels(pool, tmp_path / "mine.csv")[1] == 1
    assert labels(pool)["0"] == ("general", 1.0, "corrected")
    assert labels(pool)["1"] == ("success", 0.9, "judge judge")
    assert judged(pool, endpoint, below=1.0)[0] == 2  # what a person said is not asked about


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        (401, UserInputError, "set PELICAN_JUDGE_KEY"),
        (500, InfrastructureError, "check --endpoint"),
    ],
)
def test_a_judge_that_cannot_be_asked_changes_nothing(
    pool: Path, endpoint: Endpoint, reply: int, error: type[PelicanError], words: str
) -> None:
    before = read_version(pool)
    endpoint.replies = [reply] * 20
    with pytest.raises(error, match=words):
        judged(pool, endpoint)
    assert read_version(pool) == before


def test_the_command_says_what_it_did(pool: Path, endpoint: Endpoint) -> None:
    endpoint.always = SUCCESS
    words = ["data", "judge", str(pool), "--endpoint", endpoint.config.endpoint, "--model", "judge"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "2 rows below 0.5 were asked about, 2 labelled (2 moved), 0 left as they were" in said
    refused = CliRunner().invoke(app, [*words, "--votes", "2"])
    assert isinstance(refused.exception, UserInputError)
    assert "take an odd number" in str(refused.exception)
    assert json.loads((pool / "version.json").read_text())["notes"]

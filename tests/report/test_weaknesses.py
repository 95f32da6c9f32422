"""What a run left unsolved: its groups, the page, the table, and new data that is matched to it."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from pelican.cli.weaknesses import print_matched, print_weaknesses
from pelican.data.pool import read_index
from pelican.errors import UserInputError
from pelican.records import ChoiceAnswer, Turn
from pelican.registry.models import Lineage, register
from pelican.report.history import NEVER_WEAK, histories
from pelican.report.page import build_report
from pelican.report.run import open_run
from pelican.report.weaknesses import (
    UNSOLVED,
    Found,
    Matched,
    find_weaknesses,
    match,
    match_new,
    pattern,
)
from pelican.report.weaknesses_page import render_weaknesses, write_table
from pelican.runs.layout import run_of_path
from pelican.storage.store import FolderStore
from tests.conftest import write_checkpoint
from tests.data.factory import sample, write_pool
from tests.report.made_run import NAME, MadeRun


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    run = MadeRun(tmp_path_factory.mktemp("weak"), loops=2)
    run.write()
    return run


@pytest.fixture
def found(made: MadeRun) -> Found:
    return find_weaknesses(open_run(made.store, NAME))


def test_every_unsolved_sample_is_in_one_group(made: MadeRun, found: Found) -> None:
    cases = {c.id: c for c in histories(open_run(made.store, NAME))}
    wanted = {name for name, case in cases.items() if case.outcome in UNSOLVED}
    assert wanted and {row.sample_id for row in found.rows} == wanted
    assert len(found.rows) == len(wanted) == found.summary.unsolved
    assert sum(w.unsolved for w in found.summary.weaknesses) == len(wanted)
    for one in found.summary.weaknesses:
        own = [row for row in found.rows if row.weakness == one.number]
        assert {(r.dimension, r.family) for r in own} == {(one.dimension, one.family)}
        assert one.unsolved == len(own) == sum(one.reasons.values()) <= one.practised
        assert one.examples and one.questions and one.advice
    sizes = [w.unsolved for w in found.summary.weaknesses]
    assert sizes == sorted(sizes, reverse=True)
    solved = {n for n, c in cases.items() if c.outcome == NEVER_WEAK}
    assert not solved & {row.sample_id for row in found.rows}


def test_no_held_out_question_is_named(made: MadeRun, found: Found) -> None:
    held = {s.id for s in [*made.test, *made.other]}
    assert not held & {row.sample_id for row in found.rows}


def test_a_place_leads_to_the_row(made: MadeRun, found: Found) -> None:
    for row in found.rows:
        names = pl.read_parquet(Path(row.pool) / row.shard, columns=["id"])["id"]
        assert names[row.row] == row.sample_id


@pytest.mark.parametrize("until", ["loop-0/eval-base", "loop-1/reward-rl", "loop-1/distill-sft"])
def test_a_run_that_goes_on_says_what_is_known(
    tmp_path: Path, until: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = MadeRun(tmp_path, loops=2, train=40)
    run.write(until=until)
    print_weaknesses(NAME, None, False, str(tmp_path / "store"))
    said = capsys.readouterr().out
    if until == "loop-1/distill-sft":
        assert "up to loop 1" in said and "untaught" in said
    else:
        assert "has practised nothing yet" in said


def test_without_the_pool_names_and_counts_stay(tmp_path: Path) -> None:
    run = MadeRun(tmp_path, loops=1, train=40)
    run.write()
    there = find_weaknesses(open_run(run.store, NAME))
    shutil.rmtree(run.pool)
    away = find_weaknesses(open_run(run.store, NAME))
    assert away.summary.away == [str(run.pool)] and not there.summary.away
    assert {r.sample_id for r in away.rows} == {r.sample_id for r in there.rows}
    assert all(r.question == r.scene == r.shard == "" for r in away.rows)
    html = render_weaknesses(open_run(run.store, NAME), away)
    assert "Not readable from here" in html and away.rows[0].sample_id in html


def test_the_report_links_the_page(made: MadeRun) -> None:
    report = build_report(made.store, NAME).read_text(encoding="utf-8")
    assert 'href="weaknesses.html"' in report and 'id="record"' in report
    page = made.store.read(f"runs/{NAME}/weaknesses.html").decode()
    assert page.count("<article>") >= 3 and "data:image/jpeg" in page


HOSTILE = '=cmd|"/c calc"!A1 <script>alert(1)</script>'


@pytest.fixture
def hostile(tmp_path: Path) -> Found:
    """A run whose pool and policy say what browsers and spreadsheets would run."""
    run = MadeRun(tmp_path, loops=1, train=40)
    from pelican.data.tables import write_samples

    changed = [
        s.model_copy(update={"turns": (Turn(role="user", text=HOSTILE),)}) for s in run.train
    ]
    write_samples(run.pool / "shard-000.parquet", changed)
    run.write()
    return find_weaknesses(open_run(run.store, NAME))


def test_hostile_text_is_escaped_on_the_page_and_in_cells(hostile: Found, tmp_path: Path) -> None:
    html = render_weaknesses(open_run(FolderStore(tmp_path / "store"), NAME), hostile)
    assert "<script>alert" not in html and "&lt;script&gt;" in html
    write_table(tmp_path / "out.csv", hostile)
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    cells = [cell for row in rows[1:] for cell in row]
    assert any(cell.startswith("'=cmd") for cell in cells)
    assert not any(cell[:1] in {"=", "+", "@"} for cell in cells)


def test_the_three_tables_hold_the_same(found: Found, tmp_path: Path) -> None:
    for kind in ("csv", "parquet", "json"):
        write_table(tmp_path / f"out.{kind}", found)
    names = [row.sample_id for row in found.rows]
    assert pl.read_parquet(tmp_path / "out.parquet")["sample_id"].to_list() == names
    assert pl.read_csv(tmp_path / "out.csv")["sample_id"].to_list() == names
    tree = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [row["sample_id"] for row in tree["rows"]] == names
    empty = Found(found.summary, [])
    write_table(tmp_path / "none.parquet", empty)
    assert pl.read_parquet(tmp_path / "none.parquet").columns == list(tree["rows"][0])


def test_another_kind_of_table_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match=r"ends with none of \.csv, \.parquet, \.json"):
        print_weaknesses("nobody", tmp_path / "out.txt", False, str(tmp_path))


@pytest.mark.parametrize(
    ("questions", "asks"),
    [
        (
            ["how many red cubes?", "how many blue cubes?", "how many big cubes?"],
            "how many … cubes?",
        ),
        (["what fell?", "what fell?"], "what fell?"),
        (["which moved last?", "name each thing in order"], "name each thing in order"),
    ],
)
def test_a_pattern_is_what_the_questions_share(questions: list[str], asks: str) -> None:
    assert pattern(questions) == asks


def test_new_rows_are_of_the_group_whose_question_they_ask(
    made: MadeRun, found: Found, tmp_path: Path
) -> None:
    one = found.summary.weaknesses[0]
    alike = {"dimension": one.dimension, "family": one.family}
    old = next(s for s in made.train if s.id == one.examples[0].sample_id)
    asked = {**alike, "turns": old.turns, "answer": old.answer}
    near = [sample(i, **asked) for i in range(3)]
    far = [
        sample(
            10 + i,
            **alike,
            turns=(Turn(role="user", text=f"quite another matter {i} altogether"),),
            answer=ChoiceAnswer(options=("a", "b"), answer="A"),
        )
        for i in range(2)
    ]
    pool = write_pool(tmp_path / "new", near + far)
    matched = match(found, read_index(pool).entries)
    assert matched.rows == 5
    assert matched.by_weakness == {one.number: 3} and matched.elsewhere == 2


def test_a_run_that_is_no_retraining_matches_nothing(
    made: MadeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert match_new(open_run(made.store, NAME)) is None
    print_matched(made.store, NAME)
    assert capsys.readouterr().out == ""


@pytest.fixture
def retrained(tmp_path: Path) -> MadeRun:
    """A run, a model of its making, and the intake of a retraining of that."""
    run = MadeRun(tmp_path, loops=1, train=40)
    run.write()
    checkpoint = write_checkpoint(tmp_path / "policy")
    for model, made_by in (("ours", NAME), ("theirs", None)):
        lineage = Lineage(origin="imported", source="a test", run=made_by)
        register(run.store, model, checkpoint, lineage, "card")
    new = "runs/again/retrain/intake/train"
    rows = [s.model_copy(update={"id": f"new/{s.id}"}) for s in run.train[:20]]
    write_pool(run.store.local_root(new), rows)
    return run


def ask_of(run: MadeRun, parent: str) -> None:
    tree = {"name": "tiny", "loops": 1, "retrain": {"parent": parent, "data": "new"}}
    run.store.write("runs/again/recipe.json", json.dumps(tree).encode())


def test_a_retraining_says_which_old_weakness_its_new_rows_are_of(
    retrained: MadeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    ask_of(retrained, "ours:1")
    matched = match_new(open_run(retrained.store, "again"))
    assert isinstance(matched, Matched)
    assert matched.rows == 20 and 0 < sum(matched.by_weakness.values()) <= 20
    print_matched(retrained.store, "again")
    said = capsys.readouterr().out
    assert f"of 20 rows ask what run {NAME} left unsolved" in said
    html = build_report(retrained.store, "again").read_text(encoding="utf-8")
    assert "New data and old weaknesses" in html


@pytest.mark.parametrize(
    ("parent", "said"),
    [("theirs:1", "was not made by a run"), ("nobody:1", "can't be matched")],
)
def test_a_retraining_of_an_unknown_run_says_so(
    retrained: MadeRun, capsys: pytest.CaptureFixture[str], parent: str, said: str
) -> None:
    ask_of(retrained, parent)
    print_matched(retrained.store, "again")
    assert said in capsys.readouterr().out


def test_a_checkpoint_of_a_run_names_its_run(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    place = tmp_path / "store" / "runs" / "mine" / "loop-1" / "train-sft-sft" / "checkpoint"
    place.mkdir(parents=True)
    assert run_of_path(store, place) == "mine"
    assert run_of_path(store, tmp_path / "elsewhere") is None
    assert run_of_path(store, tmp_path / "store" / "runs") is None

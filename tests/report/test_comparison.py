"""Totals, costs, and runs side by side."""

import json
import shutil

import pytest

from pelican.errors import UserInputError
from pelican.report.comparison import compare_runs, phase_totals, recipe_differences, tokens
from pelican.report.run import open_run
from tests.report.made_run import NAME, MadeRun


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    made = MadeRun(tmp_path_factory.mktemp("made"), loops=2, train=40, held_out=120)
    made.write()
    shutil.copytree(made.store.root / f"runs/{NAME}", made.store.root / "runs/other")
    key = "runs/other/recipe.json"
    recipe = json.loads(made.store.read(key)) | {"seed": 1}
    recipe["rl"]["stop"]["threshold"] = 0.9
    made.store.write(key, json.dumps(recipe).encode())
    return made


def test_the_phases_gains_add_up_to_the_whole(made):
    run = open_run(made.store, NAME)
    totals = phase_totals(run)
    whole = run.compared(run.base, run.final).embodied
    assert totals["rl"].delta + totals["sft"].delta == pytest.approx(whole.delta)


def test_runs_are_paired_with_the_first_on_the_same_questions(made):
    table = compare_runs(made.store, [NAME, "other"])
    first, other = table.rows
    assert first.against_first is None
    assert (other.against_first.delta, other.against_first.n) == (0.0, 120)
    assert first.final == other.final and first.loops == 2
    assert first.gain.delta == pytest.approx(first.final - first.base)
    assert first.seconds > 0


def test_only_the_recipe_fields_that_differ_are_named(made):
    differences = compare_runs(made.store, [NAME, "other"]).recipe_differences
    assert differences == {
        "rl.stop.threshold": {NAME: 0.7, "other": 0.9},
        "seed": {NAME: 0, "other": 1},
    }


def test_a_field_that_one_recipe_lacks_differs():
    assert recipe_differences({"a": {"x": 1}, "b": {}}) == {"x": {"a": 1, "b": None}}


def test_tokens_are_counted_once_and_without_evaluation(made):
    run = open_run(made.store, NAME)
    rollouts = 2 * 40 * (8 + 4) * 20  # loops, samples, tries, tokens
    assert tokens(run, "generated") == rollouts + 2 * (90_000 + 900)
    assert tokens(run, "trained") == 2 * (90_000 + 70_000)


def test_an_unknown_run_is_named(made):
    with pytest.raises(UserInputError, match="no run 'nobody'"):
        compare_runs(made.store, ["nobody"])

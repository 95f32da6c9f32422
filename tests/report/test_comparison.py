"""Totals, costs, and runs side by side."""

import json
import shutil
from io import BytesIO

import pytest
from PIL import Image

from pelican.errors import UserInputError
from pelican.report.compare import (
    build_comparison,
    compare_runs,
    open_runs,
    phase_totals,
    recipe_differences,
    render_comparison,
    verdict,
)
from pelican.report.page import build_report
from pelican.report.run import cost_of, open_run
from tests.report.browser import needs_chromium, screenshot
from tests.report.made_run import NAME, MadeRun, commit_again


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
    whole = run.compare_evaluations(run.base, run.final).embodied
    assert totals["rl"].delta + totals["sft"].delta == pytest.approx(whole.delta)


def test_runs_are_paired_with_the_first_on_the_same_questions(made):
    table = compare_runs(open_runs(made.store, [NAME, "other"]))
    first, other = table.rows
    assert first.against_first is None
    assert (other.against_first.delta, other.against_first.n) == (0.0, 120)
    assert first.final == other.final and first.loops == 2
    assert first.gain.delta == pytest.approx(first.final - first.base)
    assert first.cost.seconds > 0


def test_only_the_recipe_fields_that_differ_are_named(made):
    differences = compare_runs(open_runs(made.store, [NAME, "other"])).recipe_differences
    assert differences == {
        "rl.stop.threshold": {NAME: 0.7, "other": 0.9},
        "seed": {NAME: 0, "other": 1},
    }


def test_a_field_that_one_recipe_lacks_differs():
    assert recipe_differences({"a": {"x": 1}, "b": {}}) == {"x": {"a": 1, "b": None}}


def test_tokens_are_counted_once_and_without_evaluation(made):
    cost = cost_of(open_run(made.store, NAME))
    rollouts = 2 * 40 * (8 + 4) * 20  # loops, samples, tries, tokens
    assert cost.generated_tokens == rollouts + 2 * (90_000 + 900)
    assert cost.trained_tokens == 2 * (90_000 + 70_000)


def test_an_unknown_run_is_named(made):
    with pytest.raises(UserInputError, match="no run 'nobody'"):
        open_runs(made.store, ["nobody"])


def test_runs_of_several_stores_are_told_apart_by_their_store(made, tmp_path):
    far = tmp_path / "far"
    shutil.copytree(made.store.root, far)
    address = f"{far}/runs/{NAME}"
    runs = open_runs(made.store, [NAME, address, "other", address])
    assert list(runs) == [f"{NAME} in {made.store.uri}", f"{NAME} in {far}", "other"]
    table = compare_runs(runs)
    assert table.rows[1].against_first.delta == 0.0
    with pytest.raises(UserInputError, match="no run 'nobody' in"):
        open_runs(made.store, [f"{far}/runs/nobody"])


def test_an_address_in_no_store_makes_none(made, tmp_path):
    with pytest.raises(UserInputError, match="no run"):
        open_runs(made.store, [str(tmp_path / "typo" / "runs" / "x")])
    assert not (tmp_path / "typo").exists()


def test_runs_without_a_common_question_have_no_difference(made, tmp_path):
    elsewhere = MadeRun(tmp_path, loops=1, train=12, held_out=12)
    elsewhere.write()
    run = open_runs(elsewhere.store, [NAME])[NAME]
    final = run.final
    renamed = final.results.with_columns(sample_id="x-" + final.results["sample_id"])
    data = BytesIO()
    renamed.write_parquet(data)
    commit_again(elsewhere.store, f"{final.prefix}/results.parquet", data.getvalue())
    table = compare_runs(open_runs(made.store, ["other", f"{elsewhere.store.uri}/runs/{NAME}"]))
    assert table.pairs[0].embodied is None and table.rows[1].against_first is None
    assert "No question is common with" in verdict(table)


def test_hours_are_known_only_if_every_stage_noted_them(made, tmp_path):
    run = open_runs(made.store, [NAME])[NAME]
    assert cost_of(run).gpu_hours is None
    for stage in run.stages:
        stage.manifest.notes["resources"] = {"gpu_seconds": 36.0, "cpu_seconds": 72.0}
    cost = cost_of(run)
    assert cost.gpu_hours == pytest.approx(len(run.stages) * 0.01)
    assert cost.cpu_hours == pytest.approx(2 * cost.gpu_hours)
    del run.stages[0].manifest.notes["resources"]
    assert cost_of(run).gpu_hours is None


def test_the_page_has_every_part_and_the_same_runs_the_same_page(made):
    runs = open_runs(made.store, [NAME, "other"])
    table = compare_runs(runs)
    path = build_comparison(made.store, runs, table)
    html = path.read_text()
    assert build_comparison(made.store, runs, table) == path and path.read_text() == html
    for part in ("scores", "pairs", "figures", "groups", "cost", "recipes"):
        assert f'<section id="{part}">' in html
    for figure in ("progress", "gain-forgetting", "gain-families", "gain-dimensions", "radar"):
        assert f'id="fig-{figure}"' in html
    assert "rl.stop.threshold" in html and "NaN" not in html


def test_what_is_named_by_a_person_is_escaped(made):
    run = open_runs(made.store, [NAME])[NAME]
    html = render_comparison({"<b>one": run, "other": open_runs(made.store, ["other"])["other"]})
    assert "<b>one" not in html and "&lt;b&gt;one" in html


def test_a_report_beside_others_shows_gain_and_forgetting(made):
    others = [open_runs(made.store, ["other"])["other"]]
    html = build_report(made.store, NAME, others).read_text()
    assert 'id="fig-gain-forgetting"' in html and "other (RL and SFT)" in html


@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(1200, True), (390, False)])
def test_a_browser_shows_the_comparison_without_an_error(made, tmp_path, width, dark):
    runs = open_runs(made.store, [NAME, "other"])
    page = build_comparison(made.store, runs, compare_runs(runs))
    shot = screenshot(page, tmp_path / "page.png", width, 1600, dark)
    with Image.open(shot) as image:
        assert len(image.convert("RGB").resize((200, 200)).getcolors(40_000)) > 50

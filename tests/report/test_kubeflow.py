"""What Kubeflow's UI gets: stable names, finite numbers, success before and after by family."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path

import polars as pl
import pytest

from pelican.config.presets import ABLATIONS, find_recipe
from pelican.report.kubeflow import (
    SETTINGS,
    Shown,
    conclude,
    evaluation,
    setting_metrics,
    success_matrix,
)
from pelican.storage.store import FolderStore
from tests.report.made_run import NAME, MadeRun

BASE, LAST = (f"runs/{NAME}/loop-{k}/eval-{phase}" for k, phase in ((0, "base"), (2, "sft")))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FolderStore:
    made = MadeRun(tmp_path_factory.mktemp("run"), loops=2, train=12, held_out=30)
    return whole_recipe(made.write())


def whole_recipe(store: FolderStore) -> FolderStore:
    """The made run's recipe has only what the report reads."""
    recipe = json.loads(store.read(f"runs/{NAME}/recipe.json"))
    full = find_recipe("tiny", [f"loops=2 data.train={recipe['data']['train']}"])
    store.write(f"runs/{NAME}/recipe.json", full.model_dump_json().encode())
    return store


@pytest.fixture(scope="module")
def shown(store: FolderStore) -> Shown:
    return conclude(store, NAME, "metaloop", True)


def test_the_summary_names_scores_costs_and_settings(shown: Shown) -> None:
    expected = {"complete", "embodied", "general", "embodied gain", "base embodied"}
    expected |= {f"loop {k} {p} {s}" for k in (1, 2) for p in ("RL", "SFT") for s in ("embodied",)}
    expected |= {"family counting", "family counting gain", "forgotten general %"}
    expected |= {"tokens generated", "tokens trained", "process hours"}
    assert expected <= set(shown.metrics)
    assert len([name for name in shown.metrics if name.startswith("dimension ")]) > 2
    assert all(math.isfinite(value) for value in shown.metrics.values())
    known = {
        *SETTINGS,
        "difficulty-aware",
        "teacher is base",
        "teacher on what is weak",
        "general replay",
    }
    assert {f"setting {name}" for name in known} >= {
        name for name in shown.metrics if name.startswith("setting ")
    }
    assert shown.metrics["setting rl.stop.threshold"] == 0.7
    last = shown.metrics["loop 2 SFT embodied"]
    assert shown.metrics["embodied"] == last
    assert shown.metrics["embodied gain"] == pytest.approx(last - shown.metrics["base embodied"])


def test_runs_of_different_ablations_never_look_the_same() -> None:
    recipes = ["tiny", *(f"tiny+{name}" for name in ABLATIONS)]
    recipes += ["tiny+noisy_reward(0.1)", "tiny+noisy_reward(0.25)", "tiny+threshold(0.5)"]
    shown = {name: setting_metrics(find_recipe(name)) for name in recipes}
    for one, other in combinations(recipes, 2):
        assert shown[one] != shown[other], f"{one} and {other}"
    assert shown["tiny+hints"]["setting rl.variant.hints"] == 1.0
    assert shown["tiny"]["setting difficulty-aware"] == 1.0
    assert shown["tiny+random_sampling"]["setting difficulty-aware"] == 0.0
    assert shown["tiny+weak_teacher"]["setting teacher is base"] == 1.0
    assert shown["tiny+rl_only"]["setting sft.enabled"] == 0.0


def test_the_page_is_the_report_and_the_verdict_says_how_it_ended(shown: Shown) -> None:
    assert "</html>" in shown.page
    assert f"# {NAME}: complete" in shown.markdown
    assert "| loop 2, after SFT |" in shown.markdown


def test_the_matrix_counts_every_question_once(store: FolderStore, shown: Shown) -> None:
    matrix = shown.matrix
    assert matrix is not None and matrix == success_matrix(store, BASE, LAST)
    before, after = (
        pl.read_parquet(store.root / prefix / "results.parquet") for prefix in (BASE, LAST)
    )
    assert sum(map(sum, matrix.rows)) == len(before)
    right = [i for i, name in enumerate(matrix.categories) if name.endswith("right")]
    assert sum(sum(matrix.rows[i]) for i in right) == before["success"].sum()
    assert sum(row[i] for row in matrix.rows for i in right) == after["success"].sum()
    for i, name in enumerate(matrix.categories):  # no family turns into another
        for j, other in enumerate(matrix.categories):
            if name.split(":")[0] != other.split(":")[0]:
                assert matrix.rows[i][j] == 0


def test_an_evaluation_shows_its_gate_and_the_base_compares_with_nothing(
    store: FolderStore,
) -> None:
    base, last = evaluation(store, BASE, ""), evaluation(store, LAST, BASE)
    assert base.matrix is None and last.matrix is not None
    assert last.markdown.startswith("**The gate says: ")
    expected = {"embodied", "embodied low", "general chance", "family counting", "format rate"}
    assert expected | {"forgotten embodied %"} <= set(last.metrics)


def test_the_gate_of_a_phase_that_decides_nothing_says_so(store: FolderStore) -> None:
    middle = evaluation(store, LAST.replace("-sft", "-rl"), BASE)
    assert middle.markdown.startswith("**Were it the gate of a loop: ")


def test_a_failed_run_shows_what_there_is(tmp_path: Path) -> None:
    made = MadeRun(tmp_path, loops=2, train=12, held_out=12)
    store = whole_recipe(made.write(until="loop-0/eval-base"))
    failure = {"stage": "rollout", "loop": 1, "phase": "rl", "kind": "StageError", "message": "no"}
    store.write(f"runs/{NAME}/failure.json", json.dumps(failure).encode())
    found = conclude(store, NAME, "metaloop", False)
    assert found.metrics["complete"] == 0.0
    assert found.matrix is None
    assert "**rollout, loop 1 rl:** no" in found.markdown

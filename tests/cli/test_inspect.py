"""`pelican show`, `compare`, `runs` on a made run, and what the summary says of it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from pelican.cli.runs import print_comparison, print_report, print_run
from pelican.config.presets import find_recipe
from pelican.errors import DamagedError
from pelican.report.kubeflow import finish
from pelican.runs import layout
from pelican.runs.layout import require_recipe
from pelican.storage.manifests import Manifest, commit_manifest, now, read_manifest
from pelican.storage.store import FolderStore
from tests.report.made_run import NAME, MadeRun


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FolderStore:
    made = MadeRun(tmp_path_factory.mktemp("made"), loops=2, train=24, held_out=12)
    store = made.write()
    tree = json.loads(store.read(f"runs/{NAME}/recipe.json"))
    data = tree["data"]["train"]
    recipe = find_recipe("tiny", [f"loops=2 data.train={data}"])
    store.write(f"runs/{NAME}/recipe.json", recipe.model_dump_json().encode())
    return store


def test_a_recipe_of_another_version_is_said_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = FolderStore(tmp_path)
    store.write("runs/old/recipe.json", b'{"name": "tiny", "gone": 1}')
    with pytest.raises(DamagedError, match=r"recipe.json is of another version of Pelican"):
        require_recipe(store, "old")
    print_run("old", False, store.uri)
    assert "recipe.json is of another version of Pelican: " in capsys.readouterr().err


def test_show_gives_scores_counts_and_durations_as_json(
    store: FolderStore, capsys: pytest.CaptureFixture[str]
) -> None:
    print_run(NAME, True, store.uri)
    tree = json.loads(capsys.readouterr().out)
    assert [(e["loop"], e["phase"]) for e in tree["scores"]] == [
        (0, "base"),
        (1, "rl"),
        (1, "sft"),
        (2, "rl"),
        (2, "sft"),
    ]
    for entry in tree["scores"]:
        assert 0 <= entry["embodied_chance"] <= 100
        assert len(entry["families"]) == 6
        assert all("chance" in family for family in entry["families"].values())
        assert entry["dimensions"]
    assert [(c["loop"], c["phase"]) for c in tree["counts"]] == [
        (1, "rl"),
        (1, "sft"),
        (2, "rl"),
        (2, "sft"),
    ]
    assert len(tree["durations"]) == layout.expected_stages(
        layout.read_recipe(store, NAME),  # type: ignore[arg-type]
        "metaloop",
    )
    assert tree["policy"] == f"runs/{NAME}/loop-2/train-sft-sft/checkpoint"


def said_no(found: list[Manifest], loop: int, phase: str) -> list[Manifest]:
    """The manifests, with a gate that stopped after this phase."""

    def other(manifest: Manifest) -> Manifest:
        asked = (manifest.stage, manifest.loop, manifest.phase) == ("eval", loop, phase)
        metrics = manifest.metrics | ({"go_on": 0.0} if asked else {})
        return manifest.model_copy(update={"metrics": metrics})

    return [other(manifest) for manifest in found]


@pytest.mark.parametrize(
    ("refused", "until", "offered"),
    [
        (None, (2, "sft"), "loop-2/train-sft-sft"),
        ((2, "sft"), (2, "sft"), "loop-1/train-sft-sft"),  # not the half of a refused loop
        ((1, "sft"), (1, "sft"), None),  # nothing passed: the base
        ((1, "sft"), (2, "sft"), None),  # loop 2 is of before the run was made again
        ((2, "rl"), (2, "sft"), "loop-2/train-sft-sft"),  # SFT restored it
        ((2, "rl"), (2, "rl"), "loop-1/train-sft-sft"),
        (None, (2, "rl"), "loop-2/train-rl-rl"),  # so far
        (None, (0, "base"), None),
    ],
)
def test_a_run_offers_the_newest_policy_that_its_gate_let_pass(
    store: FolderStore,
    refused: tuple[int, str] | None,
    until: tuple[int, str],
    offered: str | None,
) -> None:
    last = layout.place_of(*until)
    found = [m for m in layout.manifests(store, NAME) if layout.place_of(m.loop, m.phase) <= last]
    if refused:
        found = said_no(found, *refused)
    recipe = layout.read_recipe(store, NAME)
    expected = offered and f"runs/{NAME}/{offered}/checkpoint"
    assert layout.last_policy(found, recipe) == expected


def test_show_and_compare_print_tables(
    store: FolderStore, capsys: pytest.CaptureFixture[str]
) -> None:
    print_run(NAME, False, store.uri)
    print_comparison([NAME, NAME], False, None, store.uri)
    out = capsys.readouterr().out
    assert "loop 2, after SFT" in out
    assert "chance" in out
    assert "affordance" in out


@pytest.mark.parametrize(
    ("loop", "phase", "said"),
    [
        (1, "sft", "stopped"),
        (1, "rl", "would have stopped"),  # SFT follows
        (2, "sft", "would have stopped"),  # it was the last loop
    ],
)
def test_only_a_gate_that_is_obeyed_stopped_the_run(
    store: FolderStore,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    loop: int,
    phase: str,
    said: str,
) -> None:
    shutil.copytree(store.root, tmp_path / "store")
    copy, prefix = FolderStore(tmp_path / "store"), f"runs/{NAME}/loop-{loop}/eval-{phase}"
    found = read_manifest(copy, prefix)
    assert found is not None
    said_no = {"metrics": found.metrics | {"go_on": 0.0}}
    said_no |= {"notes": found.notes | {"gate": ["thinking: gone"]}}
    commit_manifest(copy, prefix, found.model_copy(update=said_no))
    print_run(NAME, False, str(tmp_path / "store"))
    lines = capsys.readouterr().out.splitlines()
    assert f"{said} after loop {loop} {phase.upper()}: thinking: gone" in lines


@pytest.mark.parametrize(
    ("pipeline", "overrides", "base"),
    [
        ("metaloop", "models.policy=/models/mine", "/models/mine"),
        ("retrain", "retrain.parent=tiny:3 retrain.data=new@1", "tiny:3"),
    ],
)
def test_the_base_is_named_where_no_loop_passed(
    store: FolderStore,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    pipeline: str,
    overrides: str,
    base: str,
) -> None:
    copy = FolderStore(tmp_path / "store")
    shutil.copytree(store.root, copy.root, ignore=shutil.ignore_patterns("loop-2"))
    recipe = find_recipe("tiny", [overrides])
    layout.keep_recipe(copy, NAME, recipe)
    asked = layout.Submission(
        run=NAME,
        pipeline=pipeline,
        address="tiny",
        overrides=[],
        recipe=recipe.digest(),
        submitted=now(),
    )
    copy.write(f"runs/{NAME}/run.json", asked.model_dump_json().encode())
    (refused,) = said_no(
        [
            m
            for m in layout.manifests(copy, NAME)
            if (m.stage, m.loop, m.phase) == ("eval", 1, "sft")
        ],
        1,
        "sft",
    )
    commit_manifest(copy, layout.prefix_of(refused), refused)
    print_run(NAME, False, copy.uri)
    lines = capsys.readouterr().out.splitlines()
    assert "the gate refused the policy of loop 1, after SFT; the run offers its base" in lines
    assert f"policy  the base, {base}" in lines


def test_report_writes_the_page_again_and_prints_its_path(
    store: FolderStore, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Path(store.root / "runs" / NAME / "report.html")
    page.unlink(missing_ok=True)
    for _ in range(2):
        print_report(NAME, [], store.uri)
        assert capsys.readouterr().out == f"{page}\n"
        assert "</html>" in page.read_text()


def test_the_summary_is_finite_and_the_run_complete(store: FolderStore) -> None:
    metrics = finish(store, NAME, "metaloop", succeeded=True)
    assert metrics["complete"] == 1.0
    assert {"embodied", "general", "embodied gain", "general gain"} <= set(metrics)
    assert all(math.isfinite(value) for value in metrics.values())
    tree = json.loads(store.read(f"runs/{NAME}/summary.json"))
    assert tree["report_error"] is None
    assert Path(tree["report"]).is_file()


def test_a_failure_is_not_hidden_by_the_summary(store: FolderStore) -> None:
    metrics = finish(store, NAME, "metaloop", succeeded=False)
    assert metrics["complete"] == 0.0
    assert layout.state(store, NAME) != "complete"


def test_a_run_that_lacks_its_last_loop_is_not_complete(tmp_path: Path) -> None:
    made = MadeRun(tmp_path, loops=2, train=12, held_out=12)
    store = made.write(until="loop-2/train-sft-sft")
    recipe = json.loads(store.read(f"runs/{NAME}/recipe.json"))
    full = find_recipe("tiny", [f"loops=2 data.train={recipe['data']['train']}"])
    store.write(f"runs/{NAME}/recipe.json", full.model_dump_json().encode())
    assert finish(store, NAME, "metaloop", succeeded=True)["complete"] == 0.0

"""The graph as Kubeflow gets it: golden files, names, and what must never be cached."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler

from pelican.cli.trigger import compile_ as compile_poll
from pelican.config.presets import PIPELINES, find_recipe, for_pipeline
from pelican.config.recipe import Recipe
from pelican.errors import UserInputError
from pipelines import build, compile_pipeline
from pipelines.compile import StepPods, expand_components

GOLDEN = Path(__file__).parent / "golden"


def compiled(name: str, path: Path, *overrides: str) -> dict[str, Any]:
    recipe = for_pipeline(name, find_recipe("tiny", overrides))
    compiler.Compiler().compile(build(name, recipe), str(path))
    return yaml.safe_load(path.read_text())


def tasks(tree: dict[str, Any]) -> list[dict[str, Any]]:
    dags = [tree["root"], *tree["components"].values()]
    return [task for dag in dags if "dag" in dag for task in dag["dag"]["tasks"].values()]


def task_names(tree: dict[str, Any]) -> list[str]:
    """Of every task of every graph, nested ones and conditions too."""
    dags = [tree["root"], *tree["components"].values()]
    return [name for dag in dags if "dag" in dag for name in dag["dag"]["tasks"]]


def names(tree: dict[str, Any]) -> list[str]:
    return [task["taskInfo"]["name"] for task in tasks(tree)]


@pytest.mark.parametrize("name", sorted(PIPELINES))
def test_the_graph_of_three_loops_is_the_golden_one(name: str, tmp_path: Path) -> None:
    """After a wanted change: PELICAN_GOLDEN=write pytest tests/pipelines, and read the diff."""
    found = tmp_path / f"{name}.yaml"
    compiled(name, found, "loops=3")
    golden = GOLDEN / found.name
    if os.environ.get("PELICAN_GOLDEN") == "write":
        GOLDEN.mkdir(exist_ok=True)
        golden.write_text(found.read_text())
    expected = yaml.safe_load(golden.read_text())
    assert expand_components(yaml.safe_load(found.read_text())) == expand_components(expected)


@pytest.mark.parametrize("loops", [1, 2, 3, 10])
@pytest.mark.parametrize("name", sorted(PIPELINES))
def test_no_two_tasks_of_a_graph_share_a_name(name: str, loops: int, tmp_path: Path) -> None:
    """The run page looks for a task's executions by its name, over all loops and conditions."""
    found = task_names(compiled(name, tmp_path / "ir.yaml", f"loops={loops}"))
    assert len(found) > 2
    assert len(set(found)) == len(found)


def test_the_sealed_set_has_tasks_of_its_own_after_the_loops(tmp_path: Path) -> None:
    tree = compiled("metaloop", tmp_path / "ir.yaml", "loops=3", "data.dev=samples/dev")
    found = task_names(tree)
    assert len(set(found)) == len(found)
    assert {"eval-base-sealed", "eval-final-sealed", "eval-base", "eval-loop-3-sft"} <= set(found)
    (dag,) = [
        component["dag"]
        for component in tree["components"].values()
        if "eval-final-sealed" in component.get("dag", {}).get("tasks", {})
    ]
    assert "loop-1-of-3" in dag["tasks"]["choose"]["dependentTasks"]
    assert "loop-1-of-3" in dag["tasks"]["eval-base-sealed"]["dependentTasks"]
    assert {"choose", "eval-base-sealed"} <= set(
        dag["tasks"]["eval-final-sealed"]["dependentTasks"]
    )


def test_a_task_is_named_after_its_stage_its_loop_and_its_phase(tmp_path: Path) -> None:
    found = task_names(compiled("retrain", tmp_path / "ir.yaml", "loops=2"))
    assert {"rollout-loop-1-rl", "filter-loop-2-sft", "eval-base", "rollout-base"} <= set(found)
    assert {"condition-any-weakness", "condition-go-on-to-loop-2"} <= set(found)


@pytest.mark.parametrize("name", sorted(PIPELINES))
def test_a_pipeline_is_ascii_whatever_its_recipe_says(name: str, tmp_path: Path) -> None:
    """A backend whose database was made with MySQL's old character set refuses anything else."""
    recipe = for_pipeline(name, find_recipe("tiny", ["loops=1", "model.system_prompt=先想一想"]))
    compile_pipeline(name, recipe, tmp_path / "ir.yaml")
    (tree,) = yaml.safe_load_all((tmp_path / "ir.yaml").read_text())
    assert json.dumps(tree, ensure_ascii=False).isascii()
    parameters = tree["root"]["inputDefinitions"]["parameters"]
    assert Recipe.model_validate_json(parameters["recipe"]["defaultValue"]) == recipe


def test_no_task_is_cached(tmp_path: Path) -> None:
    for task in tasks(compiled("metaloop", tmp_path / "ir.yaml")):
        assert not task.get("cachingOptions", {}).get("enableCache", False), task["taskInfo"]


def test_each_loop_runs_both_phases_in_order(tmp_path: Path) -> None:
    found = names(compiled("metaloop", tmp_path / "ir.yaml", "loops=2"))
    for loop in (1, 2):
        for phase, stages in (
            ("RL", ("rollout", "reward", "filter", "train-rl", "eval")),
            ("SFT", ("rollout", "reward", "filter", "distill", "train-sft", "eval")),
        ):
            for stage in stages:
                assert f"{stage}, loop {loop}, {phase}" in found
    assert "loop 3 of 3" not in found
    assert {"preflight", "summary", "eval, base", "go on to loop 2?"} <= set(found)


@pytest.mark.parametrize(
    ("name", "absent"), [("rl_only", "SFT"), ("sft_only", "RL"), ("evaluate", "loop")]
)
def test_a_part_of_the_metaloop_leaves_the_rest_out(name: str, absent: str, tmp_path: Path) -> None:
    assert not [task for task in names(compiled(name, tmp_path / "ir.yaml")) if absent in task]


def test_who_asks_about_random_samples_mines_nothing(tmp_path: Path) -> None:
    found = set(
        names(compiled("sft_only", tmp_path / "ir.yaml", "loops=1 distill.prompts=uniform"))
    )
    assert not {f"{stage}, loop 1, SFT" for stage in ("rollout", "reward", "filter")} & found
    assert {f"{stage}, loop 1, SFT" for stage in ("distill", "train-sft", "eval")} <= found


def test_ten_loops_compile_below_the_limit_of_a_workflow(tmp_path: Path) -> None:
    path = tmp_path / "ir.yaml"
    compiled("metaloop", path, "loops=10")
    assert path.stat().st_size < 1_000_000


def test_ten_loops_have_no_more_artifacts_than_the_ui_compares(tmp_path: Path) -> None:
    tree = compiled("metaloop", tmp_path / "ir.yaml", "loops=10")
    made = [tree["components"][task["componentRef"]["name"]] for task in tasks(tree)]
    artifacts = [
        name
        for component in made
        if "executorLabel" in component
        for name in component.get("outputDefinitions", {}).get("artifacts", {})
    ]
    assert len(artifacts) == 21 * 3 + 4 <= 100


def test_a_compiled_pipeline_carries_its_recipe(tmp_path: Path) -> None:
    path = tmp_path / "ir.yaml"
    compile_pipeline("metaloop", find_recipe("tiny"), path)
    parameters = yaml.safe_load(path.read_text())["root"]["inputDefinitions"]["parameters"]
    assert '"name":"tiny"' in parameters["recipe"]["defaultValue"]


def test_steps_install_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ir.yaml"
    compiled("metaloop", path)
    assert "pip install" not in path.read_text()


@pytest.mark.parametrize("name", ["metaloop", "retrain", "poll"])
def test_every_step_of_a_pipeline_gets_the_same_pod(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ir.yaml"
    if name == "poll":
        monkeypatch.setenv("S3_ENDPOINT_URL", "http://store:9000")
        monkeypatch.setenv("PELICAN_S3_SECRET", "the-secret")
        compile_poll(path, "s3://bucket/store")
    else:
        recipe = for_pipeline(name, find_recipe("tiny", ["loops=1"]))
        setup = StepPods({"PELICAN_LAUNCHER": "pytorchjob"}, "the-secret")
        compile_pipeline(name, recipe, path, setup)
    tree, platform = yaml.safe_load_all(path.read_text())
    executors = tree["deploymentSpec"]["executors"]
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(pods) == set(executors)
    for executor, pod in pods.items():
        variables = executors[executor]["container"]["env"]
        assert {"name": "PELICAN_LAUNCHER", "value": "pytorchjob"} in variables
        assert "the-secret" in str(pod["secretAsEnv"])
        assert "KFP_RUN_ID" in str(pod["fieldPathAsEnv"])


def test_polling_is_compiled_for_a_store_that_pods_reach(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match="pods can't reach"):
        compile_poll(tmp_path / "ir.yaml", str(tmp_path))

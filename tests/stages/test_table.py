"""The table of stages: it agrees with all that is written elsewhere, and nothing else lists stages."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pelican.config.overrides import fields
from pelican.config.presets import PIPELINES, find_recipe, for_pipeline
from pelican.config.recipe import Recipe
from pelican.config.resources import Resources
from pelican.config.stages import STAGES, Stage, Uses, value_of
from pelican.runs.layout import expected_stages
from pelican.storage.manifests import read_manifest
from pipelines import compile_pipeline
from tests.conftest import ROOT, World

TABLE = ROOT / "pelican" / "config" / "stages.py"
COMMON = {"store", "run", "loop", "phase"}
ROWS = pytest.mark.parametrize("row", STAGES.values(), ids=list(STAGES))


def names_in(node: ast.AST) -> set[str]:
    """The stages that a list, tuple, set or dict names, as they are stored or with an underscore."""
    groups: list[list[ast.expr | None]] = []
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        groups = [[*node.elts]]
    elif isinstance(node, ast.Dict):
        groups = [[*node.keys], [*node.values]]
    found = [
        {
            item.value.replace("_", "-")
            for item in group
            if isinstance(item, ast.Constant) and isinstance(item.value, str)
        }
        & set(STAGES)
        for group in groups
    ]
    return max(found, key=len, default=set())


@pytest.mark.parametrize(
    "text",
    ["x = ['rollout', 'reward', 'filter']", "{'train_rl': 1, 'train_sft': 2, 'eval': 3}"],
)
def test_a_list_of_stages_is_found(text: str) -> None:
    assert any(len(names_in(node)) >= 3 for node in ast.walk(ast.parse(text)))


def test_stages_are_listed_in_one_file() -> None:
    lists = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in ("pelican", "pipelines", "components")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.expr) and path != TABLE and len(names_in(node)) >= 3
    ]
    assert lists == []


def test_the_table_imports_nothing_of_pelican() -> None:
    assert "pelican" not in re.findall(
        r"^\s*(?:from|import) (\w+)", TABLE.read_text(), re.MULTILINE
    )


@ROWS
def test_a_stage_has_its_module_and_component(row: Stage) -> None:
    module = importlib.import_module(row.module)
    assert all(
        callable(getattr(module, f)) for f in (["work", "finish"] if row.replicas else ["run"])
    )
    component = pkgutil.resolve_name(row.component)
    spec = component.component_spec
    assert spec.inputs.keys() - COMMON == {*row.inputs, *row.optional}
    assert f'step("{row.name}", ' in inspect.getsource(component.python_func)
    assert row.output in spec.outputs


@ROWS
def test_what_a_row_names_is_in_the_recipe(row: Stage) -> None:
    known = fields(find_recipe("tiny"))
    single = (row.processes, row.threads, row.rows, row.memory)
    named = {*row.data.values(), *row.dev.values(), *row.unless.values(), *filter(None, single)}
    assert named <= set(known)
    assert set(row.result) <= {*Recipe.model_fields, *known}
    assert row.memory
    assert {*row.unless, *row.where, *row.dev} <= row.data.keys()
    assert all(isinstance(value_of(find_recipe("tiny"), name), bool) for name in row.where.values())
    assert bool(row.rows) == bool(row.trained) == (row.uses is Uses.TRAINING)


def test_every_stage_has_resources_and_a_colour() -> None:
    assert set(Resources.model_fields) == {"every", *(row.field for row in STAGES.values())}
    colours = (ROOT / "pelican" / "report" / "templates" / "colours.css").read_text()
    assert set(re.findall(r"--k-([a-z-]+):", colours)) == set(STAGES)


@pytest.mark.parametrize("more", ["loops=1", "loops=2", "loops=2 data.dev=samples/dev"])
@pytest.mark.parametrize("prompts", ["weak", "uniform"])
@pytest.mark.parametrize("name", PIPELINES)
def test_a_run_has_the_stages_of_its_pipelines_graph(
    name: str, prompts: str, more: str, tmp_path: Path
) -> None:
    recipe = for_pipeline(name, find_recipe("tiny", [f"{more} distill.prompts={prompts}"]))
    compile_pipeline(name, recipe, tmp_path / "ir.yaml")
    (tree,) = yaml.safe_load_all((tmp_path / "ir.yaml").read_text())
    graphs = [tree["root"], *tree["components"].values()]
    titles = [
        task["taskInfo"]["name"]
        for graph in graphs
        if "dag" in graph
        for task in graph["dag"]["tasks"].values()
    ]
    stages = [title for title in titles if title.partition(", ")[0] in STAGES]
    assert len(stages) == expected_stages(recipe, name)


# A stage that this test adds: a module, a component, a row, and a pipeline with a task of it.
MODULE = """
from pelican.stages.stage import StageResult


def run(inputs, config, job):
    text = (inputs["text"] / "text.txt").read_text()
    job.output("words.txt").write_text(text.upper())
    result = StageResult()
    result.counts["words"] = len(text.split()) + config.seed
    return result
"""
COMPONENT = """
from typing import NamedTuple

from kfp import dsl


@dsl.component(install_kfp_package=False)
def count_words(
    store: str, run: str, loop: int, phase: str, text: str
) -> NamedTuple("Outputs", [("words", str), ("count", int)]):
    from pelican.launch.step import step

    done = step("words", store, run, loop, phase, text=text)
    return done.output, done.count("words")
"""
ROW = """
from pelican.config.stages import STAGES, Stage, Uses

STAGES["words"] = Stage(
    name="words",
    module="word_stage",
    component="word_component:count_words",
    output="words",
    parts=("rl",),
    uses=Uses.CPU,
    inputs=("text",),
    result=("seed",),
)
"""
PIPELINE = """
import sys

from kfp import dsl, local

from pelican.records import Phase
from pipelines.parts import Stages


@dsl.pipeline(name="words")
def words(store: str, run: str, text: str):
    Stages(store, run, 1, Phase.RL).add("words", text=text)


if __name__ == "__main__":
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=sys.argv[4],
        workspace_root=sys.argv[4] + "/workspace",
        raise_on_error=True,
    )
    words(store=sys.argv[1], run=sys.argv[2], text=sys.argv[3])
"""


def test_a_stage_is_added_by_a_row_a_module_a_component_and_a_task(world: World) -> None:
    code = world.root / "code"
    code.mkdir()
    for name, source in (
        ("word_stage", MODULE),
        ("word_component", COMPONENT),
        ("sitecustomize", ROW),
        ("word_pipeline", PIPELINE),
    ):
        (code / f"{name}.py").write_text(source)
    (world.root / "given").mkdir()
    (world.root / "given" / "text.txt").write_text("one more stage")
    world.store.write("runs/new/recipe.json", world.recipe().model_dump_json().encode())
    scratch = world.root / "scratch"
    command = [str(code / "word_pipeline.py"), world.store.uri, "new", str(world.root / "given")]
    environment = {**world.environment(), "PYTHONPATH": os.pathsep.join([str(code), str(ROOT)])}
    for _ in range(2):  # the second time it is found done
        done = subprocess.run(
            [sys.executable, *command, str(scratch)],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert '"event": "reused"' in done.stdout
    manifest = read_manifest(world.store, "runs/new/loop-1/words-rl")
    assert manifest is not None and manifest.counts == {"words": 3}
    assert world.store.read("runs/new/loop-1/words-rl/words.txt") == b"ONE MORE STAGE"

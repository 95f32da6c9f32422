# ruff: noqa: F401
"""What stands at the top of the programs imports no more packages than it did at f24c200.

So `pelican --help`, a pod of the control image and a pipeline's compiler stay quick and small. Each
function is run in a Python of its own; what is imported inside functions does not count.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable

import pytest

TYPER = {"annotated_doc", "shellingham", "typer"}
PYDANTIC = {
    *("annotated_types", "pydantic", "pydantic_core", "typing_extensions", "typing_inspection"),
}
KFP = {
    *("certifi", "charset_normalizer", "cryptography", "cython_runtime", "dateutil"),
    *("docstring_parser", "google", "idna", "kfp", "kfp_server_api", "kubernetes", "oauthlib"),
    *("requests", "requests_oauthlib", "six", "urllib3", "websocket", "yaml"),
}


def errors() -> None:
    from pelican.base.metrics import MEMORY
    from pelican.base.pod import main
    from pelican.config.env import home
    from pelican.errors import PelicanError
    from pelican.storage import open_store


def cli() -> None:
    from pelican.cli.main import app


def recipe() -> None:
    from pelican.config.recipe import Recipe


def recipes() -> None:
    from pelican.config.presets import find_recipe


def sections() -> None:
    from pelican.base.model import Section
    from pelican.config.recipe import (
        Data,
        GateConfig,
        GenerationConfig,
        ModelConfig,
        RewardConfig,
        RlConfig,
        RlVariant,
        RolloutConfig,
        SftConfig,
    )
    from pelican.config.resources import Resources


def records() -> None:
    from pelican.records import Sample


def stages() -> None:
    from pelican.runs.layout import Submission
    from pelican.stages.stage import StageSpec


def launch() -> None:
    from pelican.launch.explain import PreemptedError
    from pelican.launch.local import ProcessLauncher
    from pelican.launch.podspec import build_job
    from pelican.launch.step import step
    from pelican.launch.warm import warm_process


def launch_in_kubeflow() -> None:
    from pelican.launch.kfp import Kfp


def launch_on_a_cluster() -> None:
    from pelican.launch.kube import Kube
    from pelican.launch.pytorchjob import PyTorchJobLauncher


def components() -> None:
    from components.distill import distill
    from components.evaluate import evaluate
    from components.filter import difficulty_filter
    from components.gate import gate
    from components.intake import intake
    from components.poll import poll
    from components.practice import practice
    from components.preflight import preflight
    from components.promote import promote
    from components.reward import reward
    from components.rollout import rollout
    from components.summary import summary
    from components.train_rl import train_rl
    from components.train_sft import train_sft


def pipelines() -> None:
    from pipelines import build


ALLOWED: dict[Callable[[], None], set[str]] = {
    errors: set(),
    cli: TYPER,
    recipe: PYDANTIC,
    recipes: PYDANTIC,
    sections: PYDANTIC,
    records: PYDANTIC,
    stages: PYDANTIC,
    launch: {*PYDANTIC, "tenacity"},
    launch_in_kubeflow: {*PYDANTIC, "certifi", "tenacity"},
    launch_on_a_cluster: {*PYDANTIC, "tenacity", "urllib3"},
    components: KFP,
    pipelines: PYDANTIC,
}
OURS = {"pelican", "components", "pipelines"}
PRINT = "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"


@pytest.mark.parametrize("root", ALLOWED, ids=lambda root: root.__name__)
def test_nothing_more_is_imported(root: Callable[[], None]) -> None:
    source = f"import sys\nbefore = set(sys.modules)\n{inspect.getsource(root)}"
    command = [sys.executable, "-c", f"{source}\n{root.__name__}()\n{PRINT}"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    packages = {name for name in found if not name.startswith("_")}
    assert packages - OURS - sys.stdlib_module_names <= ALLOWED[root]

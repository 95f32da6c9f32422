"""The Kubeflow pipelines: which stage follows which.

Uses KFP only, neither torch nor the Kubernetes API.

A pipeline is built for a recipe: its loops and phases are the graph's, the rest travels as one
parameter, so that the same graph runs another recipe of the same shape.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pelican.config.presets import PIPELINES
from pelican.config.recipe import Recipe
from pipelines.compile import Setup, setting_up

Pipeline = Any  # kfp's GraphComponent


def build(name: str, recipe: Recipe) -> Pipeline:
    """The pipeline `name` of PIPELINES for `recipe`."""
    return _builders()[name](recipe)


def _builders() -> dict[str, Callable[[Recipe], Pipeline]]:
    """Every pipeline's builder. Imported here, because kfp takes a second to import."""
    from pipelines import metaloop, retrain

    return {
        "metaloop": metaloop.build_metaloop,
        "rl_only": metaloop.build_rl_only,
        "sft_only": metaloop.build_sft_only,
        "evaluate": metaloop.build_evaluate,
        "retrain": retrain.build_retrain,
    }


def compile_pipeline(name: str, recipe: Recipe, path: Path, setup: Setup | None = None) -> None:
    """Write the pipeline's IR (YAML); the recipe is the parameter's default.

    `setup` is applied to every task that becomes a pod.
    """
    from kfp import compiler

    with setting_up(setup):
        compiler.Compiler().compile(
            build(name, recipe),
            str(path),
            pipeline_parameters={"recipe": recipe.as_parameter()},
        )


__all__ = ["PIPELINES", "build", "compile_pipeline"]

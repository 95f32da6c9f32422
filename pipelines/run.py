"""`python -m pipelines.run NAME …`: the graph on this machine, by Kubeflow's own local runner.

Its log is Kubeflow's; `pelican submit` starts it, follows the events in the log and shows them.
"""

import argparse
import logging
import sys
import warnings
from pathlib import Path

from pelican.launch.warm import warm_process
from pelican.leash import die_with_parent
from pelican.recipe import Recipe
from pipelines import build


def main() -> None:
    """Exit status 0 if every task that was to run did."""
    die_with_parent()
    parser = argparse.ArgumentParser(prog="pipelines.run")
    parser.add_argument("pipeline")
    parser.add_argument("--store", required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--recipe", required=True, type=Path, help="resolved recipe, JSON")
    parser.add_argument("--scratch", required=True, help="folder for Kubeflow's own files")
    given = parser.parse_args()
    text = given.recipe.read_text()

    from kfp import local

    warnings.filterwarnings("ignore", message="You may be attemping to run a task")
    logging.getLogger("kfp").setLevel(logging.WARNING)
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=given.scratch,
        workspace_root=f"{given.scratch}/workspace",
        raise_on_error=True,
    )
    pipeline = build(given.pipeline, Recipe.model_validate_json(text))
    try:
        with warm_process():
            pipeline(store=given.store, run=given.run, recipe=text)
    except RuntimeError as error:  # kfp names the task that failed; the task said why
        sys.exit(str(error))


if __name__ == "__main__":
    main()

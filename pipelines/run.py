"""`python -m pipelines.run NAME …`: the graph on this machine; and a run of Kubeflow Pipelines."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, NoReturn

from pelican.base.disk import explained
from pelican.base.model import digest_of
from pelican.base.process import die_with_parent
from pelican.config import env
from pelican.config.recipe import Recipe
from pelican.errors import InfrastructureError, PelicanError, UserInputError
from pelican.launch.kfp import KFP, Kfp
from pelican.launch.podspec import Target
from pelican.launch.warm import warm_process
from pelican.monitoring.progress import emit
from pelican.runs.layout import FAILURE, run_prefix
from pelican.storage.store import ObjectStore
from pipelines import build, compile_pipeline
from pipelines.compile import StepPods, graph_of


def submit_run(
    store: ObjectStore, run: str, pipeline: str, recipe: Recipe, redo: bool = False
) -> str:
    """Upload the pipeline, start the run, print its link. Returns Kubeflow's id of it.

    The same run name continues: while a run of it is active it is that one, afterwards a new one,
    which finds the stages that are done.
    """
    kfp = Kfp()
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder, f"{pipeline}.yaml")
        digest = _compile(store, pipeline, recipe, package)
        pipeline_id, version_id = kfp.upload(
            f"pelican-{pipeline.replace('_', '-')}", package, digest
        )
    experiment = kfp.experiment(recipe.name)
    run_id = kfp.active_run(experiment, run)
    if run_id is None:
        store.delete(f"{run_prefix(run)}/{FAILURE}")  # of an earlier attempt
        parameters: dict[str, Any] = {"store": store.uri, "run": run}
        parameters |= {"recipe": recipe.as_parameter(), "redo": redo}
        run_id = kfp.start(experiment, run, pipeline_id, version_id, parameters)
    link = kfp.link(run_id)
    record = {"run_id": run_id, "host": kfp.settings.host, "link": link, "version": digest}
    store.write(f"{run_prefix(run)}/{KFP}", json.dumps(record, indent=1).encode())
    print(f"link    {link}", flush=True)
    return run_id


def step_pods(store: ObjectStore) -> StepPods:
    """What the pods of a pipeline's steps get: the launcher, where the store is, secrets by name."""
    from pelican.storage.s3 import S3Store

    if not isinstance(store, S3Store):
        raise UserInputError(
            f"pods can't reach the store {store.uri}; set PELICAN_STORE=s3://bucket/prefix"
        )
    target = Target.from_environment()
    variables = {"PELICAN_LAUNCHER": "pytorchjob", **store.settings.variables()}
    if more := env.read(env.ENV_PREFIXES):
        variables[env.ENV_PREFIXES] = more
    return StepPods(variables | target.variables(), target.store_secret, target.ca_secret)


def _compile(store: ObjectStore, pipeline: str, recipe: Recipe, package: Path) -> str:
    """Write the IR for pods; returns the digest of what it says."""
    import yaml

    setup = step_pods(store)
    compile_pipeline(pipeline, recipe, package, setup)
    documents = list(yaml.safe_load_all(package.read_text()))
    return digest_of([graph_of(documents[0]), dict(setup.variables)])[:12]


def main() -> None:
    """Run a graph by Kubeflow's own local runner; exit status 0 if every task that was to run did.

    Its log is Kubeflow's; `pelican submit` starts it, follows the events in the log and shows them.
    """
    die_with_parent()
    parser = argparse.ArgumentParser(prog="pipelines.run")
    parser.add_argument("pipeline")
    parser.add_argument("--store", required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--recipe", required=True, type=Path, help="resolved recipe, JSON")
    parser.add_argument("--redo", action="store_true", help="finished trainings may be made again")
    parser.add_argument("--scratch", required=True, help="folder for Kubeflow's own files")
    given = parser.parse_args()

    from kfp import local

    warnings.filterwarnings("ignore", message="You may be attemping to run a task")
    logging.getLogger("kfp").setLevel(logging.WARNING)
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=given.scratch,
        workspace_root=f"{given.scratch}/workspace",
        raise_on_error=True,
    )
    try:
        with explained(), warm_process():
            text = given.recipe.read_text()
            pipeline = build(given.pipeline, Recipe.model_validate_json(text))
            pipeline(store=given.store, run=given.run, recipe=text, redo=given.redo)
    except PelicanError as error:  # Kubeflow's runner keeps files of its own
        _fail(error)
    except (FileNotFoundError, json.JSONDecodeError) as error:
        below = Path(given.scratch).parent
        what = f"a file of the pipeline's own below {below} was deleted or altered ({error})"
        _fail(InfrastructureError(f"{what}; the same command continues the run"))
    except RuntimeError as error:  # kfp names the task that failed; the task said why
        sys.exit(str(error))


def _fail(error: PelicanError) -> NoReturn:
    """Tell who follows the log, and end with the error's status."""
    step = {"stage": "pipeline", "loop": 0, "phase": "base"}
    failure = {"exit_code": error.exit_code, "message": str(error)}
    emit("event", {"event": "failed", **step, **failure})
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

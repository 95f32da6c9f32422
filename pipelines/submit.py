"""A pipeline as a run of Kubeflow Pipelines: compiled for its pods, versioned and started."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from pelican.digest import digest_of
from pelican.errors import UserInputError
from pelican.launch.kfp_api import Kfp
from pelican.launch.kfp_client import KFP
from pelican.launch.target import Target
from pelican.recipe import Recipe
from pelican.runs import FAILURE, run_prefix
from pelican.storage.objects import ObjectStore
from pipelines import compile_pipeline
from pipelines.ir import graph_of
from pipelines.pods import StepPods


def submit_run(store: ObjectStore, run: str, pipeline: str, recipe: Recipe) -> str:
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
        parameters = {"store": store.uri, "run": run, "recipe": recipe.as_parameter()}
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
    return StepPods(variables | target.variables(), target.store_secret, target.ca_secret)


def _compile(store: ObjectStore, pipeline: str, recipe: Recipe, package: Path) -> str:
    """Write the IR for pods; returns the digest of what it says."""
    import yaml

    setup = step_pods(store)
    compile_pipeline(pipeline, recipe, package, setup)
    documents = list(yaml.safe_load_all(package.read_text()))
    return digest_of([graph_of(documents[0]), dict(setup.variables)])[:12]

"""A run as a run of Kubeflow Pipelines: its pipeline's version, its experiment, its link, its end."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pelican.errors import InfrastructureError, PelicanError, UserInputError
from pelican.launch.base import CancelledError
from pelican.launch.kfp_api import ENDED, Kfp
from pelican.launch.target import Target
from pelican.recipe import Recipe, digest_of
from pelican.runs import FAILURE, read_json, run_prefix
from pelican.storage.objects import ObjectStore

if TYPE_CHECKING:
    from pipelines.pods import StepPods

KFP = "kfp.json"  # below the run's prefix: which run of Kubeflow it is
POLL_S = 5.0
PATIENCE_S = 300.0


def written_out(tree: dict[str, Any]) -> dict[str, Any]:
    """An IR with every component and executor in place of its name, and without its defaults.

    kfp numbers the components of nested pipelines differently at each compilation.
    """
    executors = tree["deploymentSpec"]["executors"]

    def component(found: dict[str, Any]) -> dict[str, Any]:
        found = dict(found)
        if "executorLabel" in found:
            found["executor"] = executors[found.pop("executorLabel")]
        if "dag" in found:
            dag = dict(found["dag"])
            dag["tasks"] = {
                name: {
                    **task,
                    "componentRef": component(tree["components"][task["componentRef"]["name"]]),
                }
                for name, task in dag["tasks"].items()
            }
            found["dag"] = dag
        return found

    root = component(tree["root"])
    root.pop("inputDefinitions", None)
    return {"root": root, "pipeline": tree["pipelineInfo"]}


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
        parameters = {"store": store.uri, "run": run, "recipe": recipe.model_dump_json()}
        run_id = kfp.start(experiment, run, pipeline_id, version_id, parameters)
    link = kfp.link(run_id)
    record = {"run_id": run_id, "host": kfp.settings.host, "link": link, "version": digest}
    store.write(f"{run_prefix(run)}/{KFP}", json.dumps(record, indent=1).encode())
    print(f"link    {link}", flush=True)
    return run_id


def step_pods(store: ObjectStore) -> StepPods:
    """What the pods of a pipeline's steps get: the launcher, where the store is, secrets by name."""
    from pelican.storage.s3 import S3Store
    from pipelines.pods import StepPods

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

    from pipelines import compile_pipeline

    setup = step_pods(store)
    compile_pipeline(pipeline, recipe, package, setup)
    documents = list(yaml.safe_load_all(package.read_text()))
    return digest_of([written_out(documents[0]), dict(setup.variables)])[:12]


def wait_for(kfp: Kfp, run_id: str) -> None:
    """Until the run has ended. Raises PelicanError unless it succeeded.

    An API that is away is asked again for PATIENCE_S; then InfrastructureError, and the run goes on.
    """
    answered = time.monotonic()
    while True:
        try:
            state = kfp.state(run_id)
            answered = time.monotonic()
        except InfrastructureError:
            if time.monotonic() - answered > PATIENCE_S:
                raise
            time.sleep(POLL_S)
            continue
        if state == "SUCCEEDED":
            return
        if state in ("CANCELED", "CANCELING"):
            raise CancelledError(f"the run was cancelled: {kfp.link(run_id)}")
        if state is None or state in ENDED:
            raise PelicanError(f"the run ended as {state or 'deleted'}: {kfp.link(run_id)}")
        time.sleep(POLL_S)


def kfp_run_of(store: ObjectStore, run: str) -> str | None:
    """Kubeflow's id of a run that was submitted to it."""
    record = read_json(store, f"{run_prefix(run)}/{KFP}")
    return None if record is None else str(record["run_id"])

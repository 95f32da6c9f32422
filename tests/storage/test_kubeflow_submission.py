"""A submission to Kubeflow from the command line on: the store is real, the API's server is made."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from pelican.launch.kfp import kfp_run_of
from tests.buckets import Bucket
from tests.conftest import ROOT, World
from tests.launch.test_kfp import (
    Backend,
    backend,  # noqa: F401 # a fixture
)


@pytest.mark.slow
def test_the_same_name_is_one_run_of_one_version(
    world: World,
    bucket: Bucket,
    backend: Backend,  # noqa: F811
) -> None:
    store = bucket.store()

    def submit() -> str:
        done = subprocess.run(
            world.submit_command("--run", "kfp-1", "--store", store.uri, "--pipeline", "evaluate"),
            env={**os.environ, "PYTHONPATH": str(ROOT), "AWS_REGION": "eu-1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = submit()
    assert "/#/runs/details/r0" in first
    assert kfp_run_of(store, "kfp-1") == "r0"
    (run,) = backend.runs.values()
    parameters = run["runtime_config"]["parameters"]
    assert parameters["store"] == store.uri
    assert json.loads(parameters["recipe"])["data"]["train"].startswith(f"{store.uri}/data/")
    assert "run kfp-1 continues" in submit()
    assert len(backend.runs) == 1
    run["state"] = "FAILED"
    submit()
    assert len(backend.runs) == 2
    assert len(backend.versions) == 1
    secret = os.environ["AWS_SECRET_ACCESS_KEY"].encode()
    assert not any(secret in upload for upload in backend.uploads)

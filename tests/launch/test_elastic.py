"""Trainings that go on with fewer pods: what the job says, against the operator's own definition."""

from __future__ import annotations

from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from pelican.config import env
from pelican.config.presets import find_recipe
from pelican.errors import UserInputError
from pelican.launch.job import Job
from pelican.launch.podspec import MEETING, build_job, job_name
from pelican.stages.stage import StageName
from tests.launch.crd import check, definition
from tests.launch.test_podspec import POOL, STORE, TARGET, job

OPERATOR = "github.com/kubeflow/training-operator@v1.9.4"
ELASTIC = "resources.train_rl.replicas=4 resources.train_rl.elastic_min=2 rl.prompts_per_step=12"


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return definition(OPERATOR, "manifests/base/crds/kubeflow.org_pytorchjobs.yaml", "v1")


def built(made: Job) -> dict[str, Any]:
    return build_job(made, TARGET, "s3://pelican/store/spec.json", STORE)


@pytest.mark.parametrize(
    ("stage", "overrides"),
    [
        ("train-rl", POOL),
        ("train-rl", f"{ELASTIC} resources.train_rl.processes=1"),
        ("rollout", "rollout.engine=vllm resources.rollout.gpus=1"),
        ("reward", ""),
    ],
)
def test_jobs_are_what_the_operator_defines(
    schema: dict[str, Any], stage: StageName, overrides: str
) -> None:
    tree = built(job(stage, overrides))
    check(tree, schema)
    tree["spec"]["elasticPolicy"] = {"minPods": 1}
    with pytest.raises(jsonschema.ValidationError, match="minPods"):
        check(tree, schema)


def test_an_elastic_training_meets_at_rank_0() -> None:
    made = job("train-rl", f"{ELASTIC} resources.train_rl.processes=1")
    spec = built(made)["spec"]
    policy = spec["elasticPolicy"]
    assert (policy["minReplicas"], policy["maxReplicas"]) == (2, 4)
    assert policy["rdzvHost"] == f"{job_name(made)}-master-0"
    replicas = spec["pytorchReplicaSpecs"]
    assert replicas["Master"]["restartPolicy"] == "Never"
    assert replicas["Worker"]["restartPolicy"] == "ExitCode"
    assert replicas["Worker"]["replicas"] == 3
    for role in replicas.values():
        (container,) = role["template"]["spec"]["containers"]
        variables = {e["name"]: e["value"] for e in container["env"]}
        assert MEETING.items() <= variables.items()
        assert len(variables) == len(container["env"])


@pytest.mark.parametrize("least", ["", " resources.train_rl.elastic_min=4"])
def test_a_training_that_wants_all_its_pods_is_not_elastic(least: str) -> None:
    given = f"resources.train_rl.replicas=4 rl.prompts_per_step=8 rl.processes=4{least}"
    spec = built(job("train-rl", given))["spec"]
    assert "elasticPolicy" not in spec
    assert spec["pytorchReplicaSpecs"]["Worker"]["restartPolicy"] == "Never"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("resources.train_rl.elastic_min=2", "more than resources.train_rl.replicas=1"),
        (
            "resources.train_rl.replicas=4 resources.train_rl.elastic_min=1"
            " rl.processes=4 rl.prompts_per_step=8",
            "cannot be shared by 3 pods x 1",
        ),
    ],
)
def test_an_elastic_training_that_cannot_be_is_a_sentence(overrides: str, words: str) -> None:
    with pytest.raises(UserInputError, match=words) as caught:
        built(job("train-rl", overrides))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stage", ["every", "rollout", "eval"])
def test_only_trainings_are_elastic(stage: str) -> None:
    with pytest.raises(UserInputError, match=f"resources.{stage}.elastic_min: only train_rl and"):
        find_recipe("tiny", [f"resources.{stage}.elastic_min=1"])


# What the operator adds (pkg/controller.v1/pytorch/envvar.go, elastic.go), and torchrun to its ranks.
STANDS_IN_PODS = {
    "elastic": {
        "PET_NNODES": "2:4",
        "PET_NPROC_PER_NODE": "1",
        "PET_MAX_RESTARTS": "100",
        "PET_RDZV_BACKEND": "c10d",
        "PET_RDZV_ENDPOINT": "run-master-0:29400",
        "PET_RDZV_ID": "run",
    },
    "of a fixed size": {
        "PET_NNODES": "4",
        "PET_NPROC_PER_NODE": "8",
        "PET_NODE_RANK": "3",
        "PET_MASTER_ADDR": "run-master-0",
        "PET_MASTER_PORT": "23456",
        "MASTER_ADDR": "run-master-0",
        "MASTER_PORT": "23456",
        "RANK": "3",
        "WORLD_SIZE": "32",
        "PYTHONUNBUFFERED": "1",
    },
    "a rank's": {
        "RANK": "31",
        "LOCAL_RANK": "7",
        "WORLD_SIZE": "32",
        "LOCAL_WORLD_SIZE": "8",
        "MASTER_ADDR": "run-master-0",
        "MASTER_PORT": "0",
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHELASTIC_RESTART_COUNT": "2",
    },
}


@pytest.mark.parametrize("given", STANDS_IN_PODS)
def test_what_stands_in_a_pod_is_taken(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage refuses variables of wrong values; those of its job must pass."""
    made = built(job("train-rl", f"{ELASTIC} resources.train_rl.processes=1"))
    (container,) = made["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"]
    ours = {row["name"]: row["value"] for row in container["env"] if "value" in row}
    for name, value in {**ours, **STANDS_IN_PODS[given]}.items():
        monkeypatch.setenv(name, value)
    env.check()

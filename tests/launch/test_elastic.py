"""Trainings that go on with fewer pods: what the job says, against the operator's own definition."""

from __future__ import annotations

from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

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

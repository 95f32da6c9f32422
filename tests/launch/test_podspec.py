"""The PyTorchJob of a stage: golden files, names, and what no job may hold."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pelican.config.presets import find_recipe
from pelican.errors import UserInputError
from pelican.launch.job import Job
from pelican.launch.podspec import DIGEST, MAX_NAME, Target, build_job, job_name, mark_attempt
from pelican.launch.step import make_job
from pelican.records import Phase
from pelican.stages.stage import StageName, StageSpec

GOLDEN = Path(__file__).parent / "golden"
TARGET = Target(ca_secret="pelican-ca", pull_secrets=("registry",), kfp_run="1234")
STORE = {"S3_ENDPOINT_URL": "https://s3.example:9000"}
POOL = (
    "resources.train_rl.replicas=2 resources.train_rl.gpus=8 rl.prompts_per_step=32"
    ' resources.train_rl.node_selector=\'{"pool": "h100"}\''
    ' resources.train_rl.tolerations=\'[{"key": "nvidia.com/gpu", "operator": "Exists"}]\''
    ' resources.train_rl.env=\'{"NCCL_IB_HCA": "mlx5"}\''
    " resources.train_rl.queue=robots resources.train_rl.priority_class=pelican-training"
)


def job_of(recipe: str, stage: StageName, run: str = "tiny-20261121-c879da") -> Job:
    base, *overrides = recipe.split(" ", 1)
    spec = StageSpec(
        stage=stage,
        store="s3://pelican/store",
        run=run,
        loop=1,
        phase=Phase.RL,
        output=f"runs/{run}/loop-1/{stage}-rl",
        inputs={"pool": "s3://pelican/data/train"},
        recipe=find_recipe(base, overrides),
    )
    return make_job(spec)


def job(stage: StageName = "train-rl", *overrides: str, run: str = "tiny-20261121-c879da") -> Job:
    return job_of(" ".join(["tiny", *overrides]), stage, run)


def built(job: Job, target: Target = TARGET) -> dict[str, object]:
    return build_job(job, target, "s3://pelican/store/spec.json", STORE)


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("train_rl_pool", job("train-rl", POOL)),
        ("reward", job("reward")),
        ("rollout_vllm", job("rollout", "rollout.engine=vllm resources.rollout.gpus=1")),
    ],
)
def test_the_job_is_the_golden_one(name: str, made: Job) -> None:
    """After a wanted change: PELICAN_GOLDEN=write pytest tests/launch, and read the diff."""
    path = GOLDEN / f"{name}.yaml"
    tree = json.loads(json.dumps(built(made)))
    tree["metadata"]["annotations"][DIGEST] = "digest"  # of the recipe too
    if os.environ.get("PELICAN_GOLDEN") == "write":
        path.write_text(yaml.safe_dump(tree, sort_keys=False))
    assert tree == yaml.safe_load(path.read_text())


def digest(made: Job, target: Target = TARGET) -> str:
    return str(built(made, target)["metadata"]["annotations"][DIGEST])  # type: ignore[index]


def test_the_same_stage_has_the_same_digest_and_another_has_another() -> None:
    assert digest(job()) == digest(job())
    others = [
        job("train-rl", "resources.every.memory=8Gi"),
        job("train-rl", "rl.max_steps=7"),
        replace(job(), env={"PELICAN_ROLLOUT_BATCH_SIZE": "4"}),
    ]
    assert len({digest(made) for made in [job(), *others]}) == 4


def test_attempts_are_the_same_job_whose_claims_have_another_owner() -> None:
    tree = build_job(job("train-rl", POOL), TARGET, "s3://b/spec.json", STORE)
    made = [mark_attempt(tree, number, "2026-11-21T10:00:00+00:00") for number in (1, 2)]
    assert made[0]["metadata"]["annotations"][DIGEST] == made[1]["metadata"]["annotations"][DIGEST]
    for role in ("Master", "Worker"):
        pods = [one["spec"]["pytorchReplicaSpecs"][role]["template"]["spec"] for one in made]
        values = [
            [e["value"] for e in pod["containers"][0]["env"] if e["name"] == "PELICAN_ATTEMPT"]
            for pod in pods
        ]
        assert [len(found) for found in values] == [1, 1]
        assert values[0] != values[1]


@given(st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=63))
def test_names_leave_room_for_the_operators_suffix(run: str) -> None:
    name = job_name(job(run=run))
    assert len(name) <= MAX_NAME
    assert name == job_name(job(run=run))


def test_long_names_that_begin_alike_stay_apart() -> None:
    one, two = (job_name(job(run="r" * 60 + end)) for end in "ab")
    assert one != two


@pytest.mark.parametrize(
    ("stage", "overrides", "pods", "each"),
    [
        ("train-rl", "rl.processes=2", 1, 2),
        ("train-rl", "rl.processes=2 resources.train_rl.replicas=2", 2, 1),
        ("train-rl", "resources.train_rl.gpus=4", 1, 4),
        ("train-rl", "resources.train_rl.gpus=4 resources.train_rl.processes=1", 1, 1),
        ("rollout", "rollout.workers=4 resources.every.replicas=2", 2, 2),
        ("filter", "resources.every.replicas=2", 1, 1),
    ],
)
def test_processes_are_shared_among_the_pods(
    stage: StageName, overrides: str, pods: int, each: int
) -> None:
    spec = built(job(stage, overrides))["spec"]
    replicas = spec["pytorchReplicaSpecs"]  # type: ignore[index]
    assert sum(part["replicas"] for part in replicas.values()) == pods
    assert spec["nprocPerNode"] == str(each)  # type: ignore[index]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("rl.processes=2 resources.train_rl.replicas=3", "cannot share"),
        ("resources.train_rl.gpus=3", "cannot be shared"),
    ],
)
def test_processes_that_do_not_fit_are_a_sentence(overrides: str, words: str) -> None:
    with pytest.raises(UserInputError, match=words):
        built(job("train-rl", overrides))


def test_no_job_holds_a_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-in-the-environment")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "planted-too")
    text = json.dumps(built(job("eval")))
    assert "planted" not in text
    assert '"secretRef": {"name": "pelican-s3"}' in text


@pytest.mark.parametrize("name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "db_password"])
def test_a_recipe_takes_no_secret(name: str) -> None:
    with pytest.raises(UserInputError, match="looks like a secret"):
        find_recipe("tiny", [f'resources.every.env=\'{{"{name}": "x"}}\''])


def test_resources_are_no_part_of_a_recipes_identity() -> None:
    other = find_recipe("tiny", ["resources.every.memory=9Gi"])
    assert other.digest() == find_recipe("tiny").digest()
    assert other.resources.of("eval").memory == "9Gi"


@pytest.mark.parametrize(
    ("recipe", "stage", "expected"),
    [
        ("pelican_7b", "train-rl", (1, 8, "64", "500Gi")),
        ("pelican_7b", "rollout", (1, 4, "64", "500Gi")),  # two GPUs an engine
        ("pelican_7b", "eval", (1, 4, "64", "500Gi")),
        ("pelican_7b", "reward", (1, 1, "8", "32Gi")),
        ("pelican_7b rollout.vllm.tensor_parallel_size=1", "distill", (1, 8, "64", "500Gi")),
        ("pelican_7b resources.train_rl.replicas=4", "train-rl", (4, 8, "64", "500Gi")),
        ("pelican_72b", "train-sft", (8, 8, "64", "1500Gi")),
        ("pelican_72b", "rollout", (8, 2, "64", "1500Gi")),
    ],
)
def test_the_large_recipes_ask_for_what_they_need(
    recipe: str, stage: StageName, expected: tuple[int, int, str, str]
) -> None:
    pods, each, cpu, memory = expected
    tree = json.loads(json.dumps(built(job_of(recipe, stage))))["spec"]
    replicas = tree["pytorchReplicaSpecs"]
    assert sum(part["replicas"] for part in replicas.values()) == pods
    assert tree["nprocPerNode"] == str(each)
    (container,) = replicas["Master"]["template"]["spec"]["containers"]
    asked = container["resources"]["limits"]
    assert asked["memory"] == memory and container["resources"]["requests"]["cpu"] == cpu
    assert asked.get("nvidia.com/gpu") == (None if stage in ("reward", "filter") else "8")


@pytest.mark.parametrize(
    ("recipe", "stage", "words"),
    [
        (
            "pelican_72b resources.train_sft.replicas=1",
            "train-sft",
            "1 pods x 8 processes are fewer than sft.processes = 64",
        ),
        ("pelican_7b resources.train_rl.gpus=4", "train-rl", "are fewer than rl.processes = 8"),
        (
            "pelican_7b resources.eval.gpus=3",
            "eval",
            "3 GPUs of a pod do not divide by rollout.vllm",
        ),
    ],
)
def test_gpus_that_do_not_fit_the_recipe_are_refused(
    recipe: str, stage: StageName, words: str
) -> None:
    with pytest.raises(UserInputError, match=words):
        built(job_of(recipe, stage))

"""Why a job waits and why it failed, from what a real cluster said (shortened)."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from pelican.config.resources import StageResources
from pelican.errors import InfrastructureError, PelicanError, ResourceError, UserInputError
from pelican.launch.explain import PreemptedError, failure, waiting
from pelican.launch.job import StageError

WANTED = StageResources(
    gpus=8, gpu_resource="nvidia.com/gpu", cpu="1", memory="4Gi", node_selector={"pool": "h100"}
)
Tree = dict[str, Any]


def pod(name: str = "j-master-0", **status: Any) -> Tree:
    return {"metadata": {"name": name}, "status": status}


def ended(code: int, message: str = "", reason: str = "Error", name: str = "pytorch") -> Tree:
    state = {"terminated": {"exitCode": code, "message": message, "reason": reason}}
    return {"name": name, "state": state}


def told(code: int, message: str) -> Tree:
    return ended(code, json.dumps({"exit_code": code, "message": message}))


def blocked(reason: str, message: str) -> Tree:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"name": "pytorch", "image": "pelican-train:9", "state": state}


def condition(kind: str, status: str, reason: str = "", message: str = "") -> Tree:
    return {"type": kind, "status": status, "reason": reason, "message": message}


NO_ROOM = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. preemption: 0/1 nodes"


@pytest.mark.parametrize(
    ("pods", "events", "words", "bounded"),
    [
        (
            [pod(conditions=[condition("PodScheduled", "False", "Unschedulable", NO_ROOM)])],
            [],
            r"no node of the pool pool=h100 .* 8 nvidia.com/gpu .* too little nvidia.com/gpu",
            False,
        ),
        (
            [pod(containerStatuses=[blocked("ErrImagePull", "not found")])],
            [],
            "'pelican-train:9' cannot be pulled .* PELICAN_TRAIN_IMAGE",
            True,
        ),
        (
            [
                pod(
                    containerStatuses=[
                        blocked("CreateContainerConfigError", 'secret "x" not found')
                    ]
                )
            ],
            [],
            'cannot start .*secret "x" not found',
            True,
        ),
        (
            [],
            [
                {
                    "type": "Warning",
                    "reason": "FailedCreatePod",
                    "message": "exceeded quota: pelican",
                }
            ],
            "quota is used up",
            False,
        ),
        (
            [],
            [{"type": "Warning", "reason": "FailedCreatePod", "message": "violates PodSecurity x"}],
            "Pod Security refuses",
            True,
        ),
        ([pod(containerStatuses=[blocked("PodInitializing", "")])], [], None, False),
        ([], [{"type": "Normal", "reason": "SuccessfulCreatePod", "message": ""}], None, False),
    ],
)
def test_a_waiting_job_is_explained(
    pods: list[Tree], events: list[Tree], words: str | None, bounded: bool
) -> None:
    found = waiting(pods, events, WANTED)
    if words is None:
        assert found is None
        return
    assert found is not None
    assert re.search(words, found.message), found.message
    assert (found.limit_s is not None) == bounded


LOST = told(75, "train-rl: another process of the job is gone (Connection closed by peer)")


@pytest.mark.parametrize(
    ("pods", "kind", "words"),
    [
        ([pod(containerStatuses=[told(2, "no pool")])], UserInputError, "no pool"),
        ([pod(containerStatuses=[told(77, "too big")])], ResourceError, "too big"),
        ([pod(containerStatuses=[ended(137, "", "OOMKilled")])], ResourceError, "memory"),
        ([pod(containerStatuses=[told(75, "store away")])], InfrastructureError, "store away"),
        ([pod(containerStatuses=[ended(137)])], InfrastructureError, "was killed"),
        ([pod(containerStatuses=[ended(1, "a\nValueError: b\n")])], StageError, "ValueError: b"),
        (
            [pod(containerStatuses=[LOST]), pod("j-worker-0", containerStatuses=[told(2, "bad")])],
            UserInputError,
            "bad",
        ),
        (
            [pod(containerStatuses=[LOST]), pod("j-worker-0", containerStatuses=[ended(1)])],
            StageError,
            "exit code 1, j-worker-0",
        ),
        (
            [pod(conditions=[condition("DisruptionTarget", "True", "DeletionByTaintManager")])],
            PreemptedError,
            "DeletionByTaintManager",
        ),
        ([pod(reason="Evicted", message="low on ephemeral-storage")], PreemptedError, "evicted"),
        ([pod(reason="Evicted", message="low on resource: memory")], ResourceError, "memory"),
        ([pod(initContainerStatuses=[ended(1, name="init-pytorch")])], InfrastructureError, "init"),
        ([], InfrastructureError, "gone"),
    ],
)
def test_a_failure_is_classed_by_its_cause(
    pods: list[Tree], kind: type[PelicanError], words: str
) -> None:
    error = failure("j", {"status": {}}, pods)
    assert type(error) is kind
    assert words in str(error)
    assert "\n" not in str(error)


def test_a_deadline_is_the_users() -> None:
    failed = condition(
        "Failed", "True", "PyTorchJobFailed", "active longer than specified deadline"
    )
    error = failure("j", {"status": {"conditions": [failed]}}, [])
    assert isinstance(error, UserInputError)
    assert "deadline_s" in str(error)

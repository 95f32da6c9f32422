"""From a stage and its resources to a PyTorchJob: a pure function, the same job for the same stage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from pelican import settings
from pelican.digest import digest_of
from pelican.errors import UserInputError
from pelican.launch.base import Job
from pelican.launch.podspec import PORT, Tree, pod_spec
from pelican.launch.target import Target
from pelican.sections.placement import StageResources

GROUP, VERSION, PLURAL = "kubeflow.org", "v1", "pytorchjobs"
MANAGED, RUN, STAGE, KFP_RUN = (
    "app.kubernetes.io/managed-by",
    "pelican.dev/run",
    "pelican.dev/stage",
    "pelican.dev/kfp-run",
)
DIGEST, ATTEMPT, FOLLOWED, STORE = (
    "pelican.dev/spec-digest",
    "pelican.dev/attempt",
    "pelican.dev/followed",
    "pelican.dev/store",
)
# Of an elastic job's processes, each from the last checkpoint: other pods came or went.
RESTARTS = 100
# Rank 0 would name its store to others at the first meeting only: who joins later waits for ever.
MEETING = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
MAX_NAME = 50  # the operator adds `-worker-10`, and a label has 63 characters


def job_name(job: Job) -> str:
    """`<run>-loop-1-train-rl-rl`; a long one is cut and keeps a digest of the whole."""
    if len(job.name) <= MAX_NAME:
        return job.name
    digest = hashlib.sha256(job.name.encode()).hexdigest()[:8]
    return f"{job.name[: MAX_NAME - 9].rstrip('-')}-{digest}"


def processes_of(job: Job, resources: StageResources) -> tuple[int, int]:
    """Pods, and processes of each. Raises UserInputError if they do not fit the stage."""
    pods = resources.replicas or 1
    if job.spec.stage in ("reward", "filter"):
        return 1, 1  # one process does their work; others would wait
    if resources.processes:
        each = resources.processes
    elif resources.gpus:
        each = resources.gpus
    elif job.processes % pods:
        raise UserInputError(
            f"{job.spec.stage} has {job.processes} processes, which {pods} pods cannot share"
            f" evenly; change resources.{job.spec.stage.replace('-', '_')}.replicas"
        )
    else:
        each = job.processes // pods
    recipe = job.spec.recipe
    rows = {"train-rl": recipe.rl.prompts_per_step, "train-sft": recipe.sft.batch_size}
    total = rows.get(job.spec.stage, pods * each)
    for number in range(least_pods(job, resources), pods + 1):
        if total % (number * each):
            raise UserInputError(
                f"{job.spec.stage}: {total} rows of a step cannot be shared by {number} pods x"
                f" {each} processes; change resources or the batch"
            )
    return pods, each


def least_pods(job: Job, resources: StageResources) -> int:
    """Pods without which the job does not go on: all, unless a training is elastic."""
    pods, least = resources.replicas or 1, resources.elastic_min
    if least is None:
        return pods
    field = f"resources.{job.spec.stage.replace('-', '_')}"
    if least > pods:
        raise UserInputError(f"{field}.elastic_min={least} is more than {field}.replicas={pods}")
    return least


def build_job(job: Job, target: Target, spec_uri: str, store_env: Mapping[str, str]) -> Tree:
    """The PyTorchJob of `job`, with the digest of its own content.

    `store_env`: what is not secret of how the store is reached; credentials come from the Secret.
    """
    resources = job.spec.recipe.resources.of(job.spec.stage)
    pods, each = processes_of(job, resources)
    same_job = {RUN: job.spec.run, STAGE: job.label[:63]}
    labels = {MANAGED: "pelican", **same_job}
    queue = {"kueue.x-k8s.io/queue-name": resources.queue} if resources.queue else {}
    owner = {KFP_RUN: target.kfp_run} if target.kfp_run else {}
    template = {
        "metadata": {
            "labels": labels,
            "annotations": {"sidecar.istio.io/inject": "false"},
        },
        "spec": pod_spec(
            job, target, resources, spec_uri, store_env, each, same_job if pods > 1 else {}
        ),
    }
    replicas: Tree = {"Master": {"replicas": 1, "restartPolicy": "Never", "template": template}}
    if pods > 1:
        replicas["Worker"] = {**replicas["Master"], "replicas": pods - 1}
    spec: Tree = {
        "nprocPerNode": str(each),
        "runPolicy": {
            # A failed pod stays for whoever asks why; the launcher makes new attempts.
            "cleanPodPolicy": "Running",
            "activeDeadlineSeconds": resources.deadline_s,
            "ttlSecondsAfterFinished": resources.ttl_s,
        },
        "pytorchReplicaSpecs": replicas,
    }
    least = least_pods(job, resources)
    if least < pods:
        _make_elastic(spec, job_name(job), least, pods, resources)
    digest = digest_of([spec, queue, job.spec.model_dump(mode="json")])
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "PyTorchJob",
        "metadata": {
            "name": job_name(job),
            "namespace": target.namespace,
            "labels": {**labels, **queue, **owner},
            "annotations": {DIGEST: digest, STORE: job.spec.store},
        },
        "spec": spec,
    }


def _make_elastic(spec: Tree, name: str, least: int, pods: int, resources: StageResources) -> None:
    """Rendezvous at rank 0's pod, by whichever pods are there.

    The operator makes a worker again that was killed (exit codes from 128), and a job whose Master
    ended well has succeeded; without a Master the first worker to finish would end it.
    """
    wait = max(600, resources.pending_s or 0)
    spec["elasticPolicy"] = {
        "rdzvBackend": "c10d",
        "rdzvHost": f"{name}-master-0",
        "rdzvPort": PORT,
        "rdzvId": name,
        "rdzvConf": [
            {"key": "join_timeout", "value": str(wait)},
            {"key": "read_timeout", "value": "120"},  # for a pod that dies while they meet
        ],
        "minReplicas": least,
        "maxReplicas": pods,
        "maxRestarts": RESTARTS,
    }
    spec["pytorchReplicaSpecs"]["Worker"]["restartPolicy"] = "ExitCode"
    (container,) = spec["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"]
    named = [{"name": name, "value": value} for name, value in MEETING.items()]
    container["env"] = [*container["env"], *named]  # the Worker's template is the same


def of_attempt(tree: Tree, number: int, time: str) -> Tree:
    """`tree` as one attempt makes it: followed since `time`, and with a name of its own for claims.

    What earlier attempts claimed in the store is then free at once: their pods are gone before.
    """
    made: Tree = json.loads(json.dumps(tree))
    made["metadata"]["annotations"] |= {ATTEMPT: str(number), FOLLOWED: time}
    for replicas in made["spec"]["pytorchReplicaSpecs"].values():
        for container in replicas["template"]["spec"]["containers"]:
            container["env"].append({"name": settings.ATTEMPT, "value": f"{number}-{time}"})
    return made

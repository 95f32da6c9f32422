"""The PyTorchJob of a stage, as a pure function of the job and of where it runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pelican.base.model import digest_of
from pelican.base.parse import parse_json
from pelican.config import env
from pelican.config import env as settings
from pelican.config.recipe import Recipe
from pelican.config.resources import StageResources
from pelican.config.stages import STAGES, Uses, value_of
from pelican.errors import UserInputError
from pelican.launch.job import Job

# The PyTorchJob of a stage: the same stage gives the same job.

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
# How often an elastic job may start its processes anew: each time that pods came or went.
RESTARTS = 100
# Without it rank 0 names its store at the first rendezvous only, and a pod that joins later waits for
# ever.
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
    row = STAGES[job.spec.stage]
    if not row.processes:
        return 1, 1  # one process does their work; others would wait
    if resources.processes:
        each = resources.processes
    elif resources.gpus:
        each = _processes_on_gpus(job, resources.gpus)
    elif job.processes % pods:
        raise UserInputError(
            f"{job.spec.stage} has {job.processes} processes, which {pods} pods cannot share"
            f" evenly; change resources.{row.field}.replicas"
        )
    else:
        each = job.processes // pods
    recipe = job.spec.recipe
    if (
        row.uses is Uses.TRAINING
        and recipe.parallel.strategy != "ddp"
        and pods * each < job.processes
    ):
        raise UserInputError(
            f"{job.spec.stage}: {pods} pods x {each} processes are fewer than {row.processes} ="
            f" {job.processes}, over which the policy is sharded and for which its memory is planned;"
            f" raise resources.{row.field}.replicas or .gpus, or lower {row.processes}"
        )
    total = value_of(recipe, row.rows) if row.rows else pods * each
    for number in range(least_pods(job, resources), pods + 1):
        if total % (number * each):
            raise UserInputError(
                f"{job.spec.stage}: {total} rows of a step cannot be shared by {number} pods x"
                f" {each} processes; change resources or the batch"
            )
    return pods, each


def _processes_on_gpus(job: Job, gpus: int) -> int:
    """Processes of a pod: one a GPU, of an engine of vLLM one for as many as it spreads a model over."""
    rollout = job.spec.recipe.rollout
    is_engine = STAGES[job.spec.stage].uses is Uses.GENERATION and rollout.engine == "vllm"
    each = rollout.vllm.tensor_parallel_size if is_engine else 1
    if gpus % each:
        raise UserInputError(
            f"{job.spec.stage}: {gpus} GPUs of a pod do not divide by"
            f" rollout.vllm.tensor_parallel_size = {each}; change one of them"
        )
    return gpus // each


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
    meeting = [{"name": name, "value": value} for name, value in MEETING.items()]
    container["env"] = [*container["env"], *meeting]  # the Worker's template is the same


def mark_attempt(tree: Tree, number: int, time: str) -> Tree:
    """A copy of the job `tree` for one attempt.

    Its annotations hold `number` and the `time` it was made, and its pods claim work under a name
    of this attempt. So claims of an earlier attempt count as free, because its pods have ended.
    """
    made: Tree = parse_json(json.dumps(tree))
    made["metadata"]["annotations"] |= {ATTEMPT: str(number), FOLLOWED: time}
    for replicas in made["spec"]["pytorchReplicaSpecs"].values():
        for container in replicas["template"]["spec"]["containers"]:
            container["env"].append({"name": env.ATTEMPT, "value": f"{number}-{time}"})
    return made


# The pods of a PyTorchJob: image, variables, volumes, what they may do and where they go.

CONTAINER = "pytorch"  # the operator wants this name
USER = 65532  # of the images
PORT = 23456
METRICS_PORT = 9464  # scraped by the PodMonitor of manifests/monitoring
CACHE, SCRATCH, CA = "/cache", "/tmp", "/etc/pelican/ca"
Tree = dict[str, Any]


def pod_spec(
    job: Job,
    target: Target,
    resources: StageResources,
    spec_uri: str,
    store_env: Mapping[str, str],
    each: int,
    others: Mapping[str, str],
) -> Tree:
    """A pod of `job` with `each` processes; `others`: labels of the pods that it works with."""
    volumes: list[Tree] = [
        {"name": "scratch", "emptyDir": {}},
        {"name": "cache", "emptyDir": {"sizeLimit": resources.cache}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": resources.shm}},
    ]
    mounts: list[Tree] = [
        {"name": "scratch", "mountPath": SCRATCH},
        {"name": "cache", "mountPath": CACHE},
        {"name": "shm", "mountPath": "/dev/shm"},
    ]
    if target.ca_secret:
        volumes.append({"name": "ca", "secret": {"secretName": target.ca_secret}})
        mounts.append({"name": "ca", "mountPath": CA, "readOnly": True})
    container: Tree = {
        "name": CONTAINER,
        "image": resources.image or target.image_of(job.spec.stage, job.spec.recipe),
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-m", "pelican.base.pod", job.spec.stage, spec_uri, str(each)],
        "env": _variables(job, target, resources, store_env),
        "envFrom": [{"secretRef": {"name": target.store_secret}}],
        "ports": [
            {"name": "pytorchjob-port", "containerPort": PORT},
            {"name": "metrics", "containerPort": METRICS_PORT},
        ],
        "resources": _quantities(resources),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }
    pod: Tree = {
        "serviceAccountName": resources.service_account or target.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 10,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
    }
    if resources.node_selector:
        pod["nodeSelector"] = dict(resources.node_selector)
    if resources.tolerations:
        pod["tolerations"] = [t.model_dump(exclude_none=True) for t in resources.tolerations]
    if resources.priority_class:
        pod["priorityClassName"] = resources.priority_class
    if target.pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in target.pull_secrets]
    if others and resources.together:
        pod["affinity"] = _near(others)
    return pod


def _variables(
    job: Job, target: Target, resources: StageResources, store_env: Mapping[str, str]
) -> list[Tree]:
    threads = str(job.threads)
    found = {
        "HOME": SCRATCH,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": threads,
        "POLARS_MAX_THREADS": threads,
        "PELICAN_CACHE": CACHE,
        "PELICAN_METRICS_PORT": str(METRICS_PORT),
        "TOKENIZERS_PARALLELISM": "false",
        **store_env,
    }
    if target.pushgateway:
        found["PELICAN_PUSHGATEWAY"] = target.pushgateway
    if target.ca_secret:
        found["S3_CA_BUNDLE"] = f"{CA}/ca.crt"
    found |= resources.env or {}
    found |= job.env
    return [{"name": name, "value": found[name]} for name in sorted(found)]


def _quantities(resources: StageResources) -> Tree:
    asked: Tree = {"cpu": resources.cpu, "memory": resources.memory}
    limits: Tree = {"memory": resources.memory}
    if resources.gpus:
        name = resources.gpu_resource or "nvidia.com/gpu"
        asked[name] = limits[name] = str(resources.gpus)
    return {"requests": asked, "limits": limits}


def _near(others: Mapping[str, str]) -> Tree:
    """Prefer the node that has the job's other pods: their gradients then stay on it."""
    term = {
        "labelSelector": {"matchLabels": dict(others)},
        "topologyKey": "kubernetes.io/hostname",
    }
    preferred = {"weight": 100, "podAffinityTerm": term}
    return {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [preferred]}}


# Which cluster, as whom, with which images: settings of the launcher, from the environment.

_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class Target:
    """`docs/settings.md` has the variables. Secrets are named, never held."""

    namespace: str = "pelican"
    service_account: str = "pelican-stage"
    store_secret: str = "pelican-s3"
    ca_secret: str | None = None
    pull_secrets: tuple[str, ...] = ()
    control_image: str = settings.IMAGE
    train_image: str = "pelican-train:0.1.0"
    rollout_image: str = "pelican-rollout:0.1.0"
    pushgateway: str | None = None
    kfp_run: str | None = None

    @classmethod
    def from_environment(cls) -> Target:
        env = settings.read_all()
        own = cls()

        def value(name: str, default: str) -> str:
            return env.get(f"PELICAN_{name}") or default

        return cls(
            namespace=value("NAMESPACE", _namespace(own.namespace)),
            service_account=value("SERVICE_ACCOUNT", own.service_account),
            store_secret=value("S3_SECRET", own.store_secret),
            ca_secret=env.get("PELICAN_S3_CA_SECRET") or None,
            pull_secrets=tuple(filter(None, value("PULL_SECRETS", "").split(","))),
            control_image=settings.image(),
            train_image=value("TRAIN_IMAGE", own.train_image),
            rollout_image=value("ROLLOUT_IMAGE", own.rollout_image),
            pushgateway=settings.read_address("PELICAN_PUSHGATEWAY") or None,
            kfp_run=env.get("KFP_RUN_ID") or None,
        )

    def variables(self) -> dict[str, str]:
        """The environment that says the same to a launcher in a pod."""
        found = {
            "PELICAN_NAMESPACE": self.namespace,
            "PELICAN_SERVICE_ACCOUNT": self.service_account,
            "PELICAN_S3_SECRET": self.store_secret,
            "PELICAN_IMAGE": self.control_image,
            "PELICAN_TRAIN_IMAGE": self.train_image,
            "PELICAN_ROLLOUT_IMAGE": self.rollout_image,
        }
        if self.ca_secret:
            found["PELICAN_S3_CA_SECRET"] = self.ca_secret
        if self.pull_secrets:
            found["PELICAN_PULL_SECRETS"] = ",".join(self.pull_secrets)
        if self.pushgateway:
            found["PELICAN_PUSHGATEWAY"] = self.pushgateway
        return found

    def image_of(self, stage: str, recipe: Recipe) -> str:
        """The smallest image that has what the stage imports."""
        uses = STAGES[stage].uses
        if uses is Uses.CPU:
            return self.control_image
        vllm = uses is Uses.GENERATION and recipe.rollout.engine == "vllm"
        return self.rollout_image if vllm else self.train_image


def _namespace(default: str) -> str:
    """Of this pod, if this is one."""
    try:
        return _POD_NAMESPACE.read_text().strip()
    except OSError:
        return default

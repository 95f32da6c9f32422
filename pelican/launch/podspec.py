"""The pods of a PyTorchJob: image, variables, volumes, what they may do and where they go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pelican.launch.base import Job
from pelican.launch.target import Target
from pelican.sections.placement import StageResources

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
        "command": ["python", "-m", "pelican.pod", job.spec.stage, spec_uri, str(each)],
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

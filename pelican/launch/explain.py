"""What a job's pods and events mean: why it waits, and why it failed. Pure functions over trees."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pelican.base.parse import parse_json
from pelican.config.resources import StageResources
from pelican.errors import (
    STAGE_DAMAGED,
    DamagedError,
    InfrastructureError,
    PelicanError,
    ResourceError,
    UserInputError,
)
from pelican.launch.job import StageError
from pelican.launch.podspec import CONTAINER, Tree


class PreemptedError(InfrastructureError):
    """The cluster took a pod's node away: preemption, eviction, a drain, a spot node."""


@dataclass(frozen=True)
class Waiting:
    """Why a job does not run yet, and after how many seconds to give up (None: the recipe's limit)."""

    message: str
    limit_s: float | None = None


_IMAGE_ERRORS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_CONFIG_ERRORS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_EVENT_ERRORS = ("FailedCreatePod", "FailedCreate", "FailedMount", "FailedCreateService")
# Seconds before giving up: a registry or a webhook may fail for a moment, but an image that does
# not exist will not come by waiting.
_IMAGE_S, _NO_IMAGE_S, _CONFIG_S, _CREATE_S = 90.0, 10.0, 30.0, 20.0
_NO_IMAGE = ("not found", "no such host", "denied", "InvalidImageName", "ErrImageNeverPull")
_FREE = re.compile(r"Insufficient ([\w./-]+)")


def waiting(pods: Iterable[Tree], events: Iterable[Tree], wanted: StageResources) -> Waiting | None:
    """The most telling reason for which a pod has not started; None if all have."""
    pods = list(pods)
    for pod in pods:
        for status in _statuses(pod):
            reason = status.get("state", {}).get("waiting", {})
            found = _container(status, reason)
            if found is not None:
                return found
    for pod in pods:
        for condition in pod.get("status", {}).get("conditions", []):
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                return Waiting(_unschedulable(pod, condition, wanted))
            if condition["type"] == "PodScheduled" and condition.get("reason") == "SchedulingGated":
                return Waiting(f"{_name(pod)} waits for its queue to admit it")
    for event in reversed(list(events)):
        if event.get("type") == "Warning" and event.get("reason") in _EVENT_ERRORS:
            message = str(event.get("message", ""))
            used_up = "exceeded quota" in message  # others will end
            return Waiting(_refused(message), None if used_up else _CREATE_S)
    return None


def _container(status: Tree, reason: Tree) -> Waiting | None:
    why, message = reason.get("reason", ""), str(reason.get("message", ""))
    if why in _IMAGE_ERRORS:
        image = status.get("image", "?")
        return Waiting(
            f"the image {image!r} cannot be pulled ({why}: {_short(message)}); build and push it,"
            " or name another (PELICAN_IMAGE, PELICAN_TRAIN_IMAGE, PELICAN_ROLLOUT_IMAGE,"
            " resources.<stage>.image)",
            _NO_IMAGE_S if any(word in f"{why} {message}" for word in _NO_IMAGE) else _IMAGE_S,
        )
    if why in _CONFIG_ERRORS:
        return Waiting(f"a container cannot start ({why}: {_short(message)})", _CONFIG_S)
    return None


def _unschedulable(pod: Tree, condition: Tree, wanted: StageResources) -> str:
    message = str(condition.get("message", "no node fits"))
    short = _FREE.findall(message)
    pool = ", ".join(f"{k}={v}" for k, v in sorted((wanted.node_selector or {}).items()))
    asked = [f"{wanted.gpus} {wanted.gpu_resource}"] if wanted.gpus else []
    asked += [f"{wanted.cpu} CPU", f"{wanted.memory} of memory"]
    lacking = f"; too little {', '.join(dict.fromkeys(short))}" if short else ""
    where = f" of the pool {pool}" if pool else ""
    return (
        f"no node{where} has room for {_name(pod)}, which asks for {' and '.join(asked)}{lacking}"
        f" ({_short(message)})"
    )


def _refused(message: str) -> str:
    if "exceeded quota" in message:
        return f"the namespace's quota is used up ({_short(message)})"
    if "violates PodSecurity" in message:
        return f"the namespace's Pod Security refuses the pods ({_short(message)})"
    if "serviceaccount" in message and "not found" in message:
        return f"the service account is missing ({_short(message)}); `make deploy` brings it"
    return f"a pod cannot be made ({_short(message)})"


def failure(name: str, job: Tree, pods: Iterable[Tree]) -> PelicanError:
    """Why a failed job failed: the cause that explains the others, user input before all."""
    found = [error for pod in pods for error in _errors(pod)]
    if found:
        worst = min(found, key=_rank)
        return type(worst)(f"{name}: {worst}")
    for condition in job.get("status", {}).get("conditions", []):
        if condition["type"] == "Failed" and condition["status"] == "True":
            message = str(condition.get("message", ""))
            if "deadline" in message.lower() or condition.get("reason") == "DeadlineExceeded":
                return UserInputError(
                    f"{name} ran longer than its deadline; raise resources.<stage>.deadline_s"
                )
            why = "the pod that failed is gone: deleted, or its node lost"
            return InfrastructureError(f"{name}: {why} ({_short(message)})")
    return InfrastructureError(f"{name}: its pods are gone")


def _rank(error: PelicanError) -> int:
    order = (
        DamagedError,
        UserInputError,
        ResourceError,
        StageError,
        PreemptedError,
        InfrastructureError,
    )
    return next(i for i, kind in enumerate(order) if isinstance(error, kind))


def _errors(pod: Tree) -> list[PelicanError]:
    status = pod.get("status", {})
    where = _name(pod)
    for condition in status.get("conditions", []):
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            why = condition.get("reason", "")
            if why != "TerminationByKubelet" or "memory" not in status.get("message", ""):
                return [PreemptedError(f"{where} was taken from its node ({why})")]
    if status.get("reason") in ("Evicted", "Preempting", "NodeLost", "Shutdown", "NodeShutdown"):
        message = _short(str(status.get("message", "")))
        if "memory" in message:
            return [ResourceError(f"{where} was evicted: {message}")]
        return [PreemptedError(f"{where} was evicted: {message}")]
    found: list[PelicanError] = []
    for container in _statuses(pod):
        ended = container.get("state", {}).get("terminated")
        if ended is None or ended.get("exitCode") == 0:
            continue
        if container["name"] != CONTAINER:
            found.append(InfrastructureError(f"{where}: its container {container['name']} failed"))
            continue
        found.append(_error(where, ended))
    return found


def _error(where: str, ended: Tree) -> PelicanError:
    message = str(ended.get("message") or "")
    try:
        report = parse_json(message.strip())  # what the stage left as its last word
        code, message = int(report["exit_code"]), str(report["message"])
    except (ValueError, KeyError, TypeError):
        code = int(ended.get("exitCode", 1))
        message = message.strip().splitlines()[-1] if message.strip() else ""
    if ended.get("reason") == "OOMKilled" or code == ResourceError.exit_code:
        why = message or "the container's memory ran out; raise resources.<stage>.memory"
        return ResourceError(why)
    if code == UserInputError.exit_code:
        return UserInputError(message)
    if code == STAGE_DAMAGED:
        return DamagedError(message)
    if code == InfrastructureError.exit_code:
        return InfrastructureError(message)
    if code in (137, 143):
        return InfrastructureError(f"{where} was killed (exit code {code})")
    return StageError(f"{message or 'failed'} (exit code {code}, {where})")


def _statuses(pod: Tree) -> list[Tree]:
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def _name(pod: Tree) -> str:
    return str(pod.get("metadata", {}).get("name", "a pod"))


def _short(message: str, most: int = 300) -> str:
    line = " ".join(message.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"

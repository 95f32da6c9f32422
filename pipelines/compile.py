"""A pipeline compiled: what its IR says, and what its pods get."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

# What a compiled pipeline says, apart from how kfp happened to number its parts.


def expand_components(tree: dict[str, Any]) -> dict[str, Any]:
    """An IR with every component and executor in place of its name.

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

    return {"root": component(tree["root"]), "pipeline": tree["pipelineInfo"]}


def graph_of(tree: dict[str, Any]) -> dict[str, Any]:
    """An IR written out, without its parameters' defaults: what makes it another version."""
    graph = expand_components(tree)
    graph["root"].pop("inputDefinitions", None)
    return graph


# What the pods of a compiled pipeline get: the launcher, the store, secrets by reference.

SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
CA = "/etc/pelican/ca"
CACHE = "/tmp/cache"  # a step's user may not write beside the code
Setup = Callable[[Any], Any]
_SETUP: ContextVar[Setup | None] = ContextVar("setup of a task", default=None)


@dataclass(frozen=True)
class StepPods:
    """Sets up the pod of a pipeline task: environment, secrets, CPU and memory.

    It asks for little, because the pod only starts a job and follows it.
    """

    variables: Mapping[str, str]
    store_secret: str
    ca_secret: str | None = None  # with `ca.crt`, of the store's endpoint
    cpu: str = "100m"
    memory: str = "1Gi"

    def __call__(self, task: Any) -> Any:
        from kfp import kubernetes

        for name, value in sorted({"PELICAN_CACHE": CACHE, **self.variables}.items()):
            task.set_env_variable(name, value)
        task.set_cpu_request(self.cpu).set_memory_request(self.memory)
        kubernetes.use_secret_as_env(task, self.store_secret, {name: name for name in SECRETS})
        if self.ca_secret:
            kubernetes.use_secret_as_volume(task, self.ca_secret, mount_path=CA)
            task.set_env_variable("S3_CA_BUNDLE", f"{CA}/ca.crt")
        run = "metadata.labels['pipeline/runid']"
        kubernetes.use_field_path_as_env(task, "KFP_RUN_ID", run)
        return task


@contextmanager
def setting_up(setup: Setup | None) -> Iterator[None]:
    """Every task that is made inside gets `setup`."""
    token = _SETUP.set(setup)
    try:
        yield
    finally:
        _SETUP.reset(token)


def set_up(task: Any) -> Any:
    """`task`, as the pipeline that is being built wants its pods."""
    setup = _SETUP.get()
    return setup(task) if setup is not None else task

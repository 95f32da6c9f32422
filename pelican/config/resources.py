"""What a stage's pods ask of a cluster: how many, on which nodes, for how long.

Part of the recipe, but not of its identity: where a stage runs does not change what it computes, so
a run continues with other resources.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pelican.base.model import Section
from pelican.config.stages import STAGES

_QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"
# Stages that may lose pods, because any number of processes resumes their checkpoints.
ELASTIC = tuple(row.field for row in STAGES.values() if row.elastic)
Quantity = Annotated[str, Field(pattern=_QUANTITY)]


class Toleration(Section):
    """A taint that the pods bear, in Kubernetes' words."""

    key: str | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class StageResources(Section):
    """The pods of one stage's job; a field that is none is as in `resources.every`."""

    replicas: int | None = Field(None, gt=0, description="pods of the job")
    elastic_min: int | None = Field(
        None, gt=0, description="fewest pods with which a training goes on; none: all are needed"
    )
    processes: int | None = Field(
        None,
        gt=0,
        description="processes of one pod; none: one a GPU, else the stage's processes are shared out",
    )
    gpus: int | None = Field(None, ge=0, description="GPUs of one pod")
    gpu_resource: str | None = Field(
        None, description="name of the cluster's resource that counts GPUs"
    )
    cpu: Quantity | None = Field(None, description="CPU cores that a pod requests")
    memory: Quantity | None = Field(
        None, description="memory that a pod requests, which is its limit, too"
    )
    shm: Quantity | None = Field(None, description="size of /dev/shm, which counts as memory")
    cache: Quantity | None = Field(None, description="size of the disk for what a pod downloads")
    node_selector: dict[str, str] | None = Field(None, description="labels of the node pool")
    tolerations: tuple[Toleration, ...] | None = Field(None, description="taints of the node pool")
    together: bool | None = Field(None, description="prefer one node for the job's pods")
    image: str | None = Field(
        None, description="image of the pods; none: the launcher's image for the stage"
    )
    priority_class: str | None = None
    service_account: str | None = Field(
        None, description="service account of the pods; none: the launcher's"
    )
    queue: str | None = Field(None, description="Kueue's local queue")
    env: dict[str, str] | None = Field(
        None, description="environment variables of the pods, such as NCCL's; no secrets"
    )
    pending_s: int | None = Field(None, gt=0, description="longest wait for a node in seconds")
    deadline_s: int | None = Field(None, gt=0, description="longest time of one attempt in seconds")
    ttl_s: int | None = Field(None, ge=0, description="seconds for which a finished job is kept")
    backoff: int | None = Field(None, ge=0, description="new attempts after infrastructure failed")

    @field_validator("cpu", "memory", "shm", "cache", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        return str(value) if isinstance(value, (int, float)) else value


class Resources(Section):
    """The resources of every stage, and those of the stages that differ from it."""

    every: StageResources = StageResources(
        replicas=1,
        gpus=0,
        gpu_resource="nvidia.com/gpu",
        cpu="1",
        memory="4Gi",
        shm="1Gi",
        cache="20Gi",
        node_selector={},
        tolerations=(),
        together=True,
        env={},
        pending_s=1800,
        deadline_s=86400,
        ttl_s=3600,
        backoff=2,
    )
    rollout: StageResources = StageResources()
    reward: StageResources = StageResources()
    filter: StageResources = StageResources()
    train_rl: StageResources = StageResources()
    distill: StageResources = StageResources()
    train_sft: StageResources = StageResources()
    eval: StageResources = StageResources()

    @model_validator(mode="after")
    def _trainings_are_elastic(self) -> Self:
        for name in type(self).model_fields:
            if name not in ELASTIC and getattr(self, name).elastic_min is not None:
                raise ValueError(
                    f"resources.{name}.elastic_min: only {' and '.join(ELASTIC)} go on with fewer pods"
                )
        return self

    def of(self, stage: str) -> StageResources:
        """The resources of a stage such as `train-rl`: its own fields, else those of every stage."""
        own: StageResources = getattr(self, stage.replace("-", "_"))
        given = {k: getattr(own, k) for k in type(own).model_fields if getattr(own, k) is not None}
        base = {
            k: v
            for k, v in Resources.model_fields["every"].default
            if v is not None and getattr(self.every, k) is None
        }
        return self.every.model_copy(update={**base, **given})

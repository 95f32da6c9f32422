"""What a run cost: wall clock, GPU and CPU hours, tokens. Read from the stages' manifests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pelican.frozen import Frozen
from pelican.outcome import tokens
from pelican.report.run import Run, StageRun
from pelican.storage.manifests import Manifest

RESOURCES = "resources"  # of a manifest's notes; see pelican.stages.resources


class Cost(Frozen):
    """`gpu_hours` and `cpu_hours` are None if a stage did not note what it used."""

    seconds: float
    gpu_hours: float | None
    cpu_hours: float | None
    generated_tokens: int
    trained_tokens: int
    evaluation_tokens: int


def cost_of(run: Run) -> Cost:
    """Of all finished stages. What a stage lost to a restart is not in it."""
    return Cost(
        seconds=seconds(run),
        gpu_hours=_hours(run, "gpu_seconds"),
        cpu_hours=_hours(run, "cpu_seconds"),
        generated_tokens=tokens(_finished(run), "generated"),
        trained_tokens=tokens(_finished(run), "trained"),
        evaluation_tokens=sum(_counts(stage).get("tokens", 0) for stage in run.finished("eval")),
    )


def _hours(run: Run, name: str) -> float | None:
    spent: list[Any] = []
    for stage in run.stages:
        if stage.manifest is not None:
            noted = stage.manifest.notes.get(RESOURCES)
            spent.append(noted.get(name) if isinstance(noted, dict) else None)
    known = [float(value) for value in spent if isinstance(value, int | float)]
    return sum(known) / 3600 if known and len(known) == len(spent) else None


def _finished(run: Run) -> Iterator[Manifest]:
    return (stage.manifest for stage in run.stages if stage.manifest)


def seconds(run: Run) -> float:
    """Time spent in all finished stages."""
    return sum(stage.manifest.seconds for stage in run.stages if stage.manifest)


def _counts(stage: StageRun) -> dict[str, int]:
    return stage.manifest.counts if stage.manifest else {}

"""What every stage shares: its specification, its context, and the commit at its end."""

from __future__ import annotations

import importlib
import json
import math
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from pelican.errors import UserInputError
from pelican.recipe import Recipe
from pelican.records import Phase
from pelican.storage.manifests import (
    MANIFEST,
    Manifest,
    commit_manifest,
    describe_outputs,
    file_digest,
    fingerprint,
    now,
    read_manifest,
    versions,
)
from pelican.storage.objects import ObjectStore, open_store

StageName = Literal["rollout", "reward", "filter", "train-rl", "distill", "train-sft", "eval"]
STAGES: tuple[StageName, ...] = get_args(StageName)

# The sections of the recipe that determine a stage's result: another change does not redo it.
SECTIONS: dict[StageName, tuple[str, ...]] = {
    "rollout": ("seed", "model", "rollout", "data"),
    "reward": ("seed", "reward"),
    "filter": ("seed", "filter"),
    "train-rl": ("seed", "model", "rl", "reward"),
    "distill": ("seed", "model", "distill", "reward"),
    "train-sft": ("seed", "model", "sft"),
    "eval": ("seed", "model", "eval", "rollout", "reward"),
}
PROGRESS = "::progress "


class StageSpec(BaseModel):
    """All that a stage needs to know: `pelican stage NAME --spec FILE`.

    `inputs` maps a name to a prefix of the store (another stage's output) or to a path of data or
    a checkpoint; `output` is the prefix that the stage owns.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: StageName
    store: str = Field(description="URI of the store")
    run: str
    loop: int = Field(ge=0)
    phase: Phase
    output: str
    inputs: dict[str, str]
    recipe: Recipe


@dataclass
class StageContext:
    """What a stage's `run(context)` works with."""

    spec: StageSpec
    store: ObjectStore
    counts: Counter[str] = field(default_factory=Counter)
    metrics: dict[str, float] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    _last_progress: float = 0.0

    @property
    def recipe(self) -> Recipe:
        return self.spec.recipe

    def input(self, name: str) -> Path:
        """Local path of an input."""
        return resolve_input(self.store, self.spec.inputs[name])

    def output(self, name: str = "") -> Path:
        """Local path for an output file; its folder exists. `work/…` is kept but not committed."""
        path = Path(self.store.local_root(self.spec.output)) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def progress(self, done: int, total: int, unit: str, **info: float) -> None:
        """Report progress, at most twice a second; the launcher that follows the log shows it."""
        if done < total and time.monotonic() - self._last_progress < 0.5:
            return
        self._last_progress = time.monotonic()
        event = {"stage": self.spec.stage, "loop": self.spec.loop, "phase": self.spec.phase}
        event |= {"done": done, "total": total, "unit": unit, **info}
        print(PROGRESS + json.dumps(event), file=sys.stdout, flush=True)

    def metric(self, name: str, value: float) -> None:
        """Record a number of the manifest. Kubeflow refuses NaN, so only finite ones are kept."""
        if math.isfinite(value):
            self.metrics[name] = float(value)


def resolve_input(store: ObjectStore, where: str) -> Path:
    """A prefix of the store if it exists there, else a path of this machine."""
    if not where.startswith("/") and store.exists(where):
        return store.local(where)
    path = Path(where)
    if not path.exists():
        raise UserInputError(f"input {where!r} is neither in {store.uri} nor a path; check the recipe")
    return path


def input_digest(store: ObjectStore, where: str) -> str:
    """Digest of a stage's output (by its manifest) or of a plain file or folder (by content)."""
    manifest = read_manifest(store, where) if not where.startswith("/") else None
    if manifest is not None:
        return manifest.digest()
    path = resolve_input(store, where)
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    from pelican.recipe import digest_of

    return digest_of([[p.relative_to(path).as_posix(), file_digest(p)] for p in files])


def stage_fingerprint(store: ObjectStore, spec: StageSpec) -> str:
    """What determines the result of `spec`: its part of the recipe, loop, phase and inputs."""
    recipe = spec.recipe.model_dump(mode="json")
    settings: dict[str, object] = {name: recipe[name] for name in SECTIONS[spec.stage]}
    settings |= {"loop": spec.loop, "phase": spec.phase.value}
    inputs = {name: input_digest(store, where) for name, where in sorted(spec.inputs.items())}
    return fingerprint(spec.stage, settings, inputs)


def run_stage(spec: StageSpec) -> Manifest:
    """Run one stage unless its manifest is there already. One process a call, or one per rank."""
    store = open_store(spec.store)
    identity = stage_fingerprint(store, spec)
    done = read_manifest(store, spec.output)
    if done is not None and done.fingerprint == identity:
        return done
    if done is not None:
        store.delete(spec.output)  # of another recipe or other inputs
    mark = f"{spec.output}/work/fingerprint"
    if store.exists(mark) and store.read(mark).decode() != identity:
        store.delete(spec.output)  # half done, of another recipe
    store.write(mark, identity.encode())
    context = StageContext(spec, store)
    started = now()
    module = importlib.import_module(f"pelican.stages.{spec.stage.replace('-', '_')}")
    module.run(context)
    manifest = Manifest(
        stage=spec.stage,
        run=spec.run,
        loop=spec.loop,
        phase=spec.phase,
        fingerprint=identity,
        recipe=spec.recipe.digest(),
        inputs=spec.inputs,
        outputs=describe_outputs(store, spec.output),
        counts=dict(context.counts),
        metrics=context.metrics,
        notes=context.notes,
        started=started,
        finished=now(),
        versions=versions(),
    )
    commit_manifest(store, spec.output, manifest)
    return manifest


__all__ = ["MANIFEST", "STAGES", "StageContext", "StageName", "StageSpec", "run_stage"]

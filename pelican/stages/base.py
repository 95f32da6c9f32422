"""What every stage shares: its specification, its context, and the commit at its end."""

from __future__ import annotations

import importlib
import json
import math
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from pelican import settings
from pelican.data.corrections import NONE, Corrections, read_corrections
from pelican.data.digests import Reader, known, seen
from pelican.errors import UserInputError
from pelican.recipe import Recipe, digest_of
from pelican.records import Phase
from pelican.stages.resources import cpu_seconds_used, resources
from pelican.storage.manifests import (
    MANIFEST,
    Manifest,
    commit_manifest,
    describe_outputs,
    fingerprint,
    now,
    read_manifest,
    versions,
)
from pelican.storage.objects import ObjectStore, local_path, open_store, open_uri
from pelican.telemetry import exporter, record

if TYPE_CHECKING:
    from pelican.rewards.judge import EndpointJudge

StageName = Literal["rollout", "reward", "filter", "train-rl", "distill", "train-sft", "eval"]
STAGES: tuple[StageName, ...] = get_args(StageName)

# Stages whose processes are replicas: see pelican.stages.replicas.
REPLICATED: frozenset[StageName] = frozenset({"rollout"})

# What of the recipe determines a stage's result, sections or fields: another change does not redo
# it. Pools and checkpoints count by their content, as inputs; distill's rows name the teacher.
SECTIONS: dict[StageName, tuple[str, ...]] = {
    "rollout": ("seed", "model", "rollout", "data"),
    "reward": ("seed", "reward"),
    "filter": ("seed", "filter"),
    "train-rl": ("seed", "model", "rl", "reward", "data.max_pixels", "parallel"),
    "distill": ("seed", "model", "models.teacher", "distill", "reward", "rollout", "data"),
    "train-sft": ("seed", "model", "sft", "data.max_pixels", "parallel"),
    "eval": ("seed", "model", "eval", "rollout", "reward", "data"),
}
CORRECTIONS = "corrections"  # an input beside `pool`
PROGRESS = "::progress "
_MARK = "work/fingerprint"  # of the recipe and inputs that lie below a stage's prefix
_SEEN = "work/inputs"  # the same by sizes and times, then that fingerprint


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
    """What a stage's `run(context)` works with.

    In a job of several processes every rank runs the stage on its share (`rank`, `world_size`);
    counts are summed over the ranks, metrics and notes are rank 0's.
    """

    spec: StageSpec
    store: ObjectStore
    rank: int = 0
    world_size: int = 1
    counts: Counter[str] = field(default_factory=Counter)
    metrics: dict[str, float] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    barrier: Callable[[], object] = lambda: None
    _last_progress: float = 0.0

    @property
    def recipe(self) -> Recipe:
        return self.spec.recipe

    def input(self, name: str) -> Path:
        """Local path of an input."""
        return resolve_input(self.store, self.spec.inputs[name])

    def corrections(self) -> Corrections:
        """A person's corrections of the input `pool`; none if the recipe names no file."""
        return (
            read_corrections(self.input(CORRECTIONS)) if CORRECTIONS in self.spec.inputs else NONE
        )

    def output(self, name: str = "") -> Path:
        """Local path for an output file; its folder exists. `work/…` is kept but not committed."""
        path = Path(self.store.local_root(self.spec.output)) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def restored(self, name: str) -> Path:
        """`output(name)`, a folder of `work/`, with what an earlier attempt kept, on any machine."""
        if self.store.remote:
            if _local_rank() == 0:
                self.store.restore(f"{self.spec.output}/{name}")
            self.barrier()
        return self.output(name)

    def keep(self, name: str, last: tuple[str, ...]) -> None:
        """Every rank: the folder `name` is whole, and the next attempt may find it on any machine.

        Of the folders beside it none is kept. The files `last`, rank 0's, mark it as whole.
        """
        if not self.store.remote:
            return
        prefix = f"{self.spec.output}/{name}"
        self.barrier()
        if _local_rank() == 0:
            self.store.upload(prefix, skip=last)
        self.barrier()
        if self.rank == 0:
            for file in last:
                self.store.put(f"{prefix}/{file}", self.output(name) / file)
            above = prefix.rpartition("/")[0]
            depth = above.count("/") + 1
            for other in {key.split("/")[depth] for key in self.store.keys(above)}:
                if f"{above}/{other}" != prefix:
                    self.store.delete(f"{above}/{other}")

    def progress(self, done: int, total: int, unit: str, **info: float) -> None:
        """Report progress, at most twice a second; the launcher that follows the log shows it.

        Each rank reports its share, which the launcher sums; training is reported by rank 0.
        """
        shared = self.rank == 0 or not self.spec.stage.startswith("train")
        record.progressed(done, total, counted=shared)
        if not shared:
            return
        if done != total and time.monotonic() - self._last_progress < 0.5:
            return
        self._last_progress = time.monotonic()
        event: dict[str, object] = {
            "stage": self.spec.stage,
            "loop": self.spec.loop,
            "phase": self.spec.phase,
        }
        event |= {"done": done, "total": total, "unit": unit, **info}
        if self.world_size > 1 and not self.spec.stage.startswith("train"):
            event["rank"] = self.rank
        print(PROGRESS + json.dumps(event), file=sys.stdout, flush=True)

    def judged(self, judge: EndpointJudge | None) -> None:
        """Count what the judge was asked, and keep how far its votes agreed."""
        if judge is None:
            return
        self.counts.update(judge.tally.counts())
        if judge.tally.mean_agreement is not None:
            self.metric("judge_agreement", judge.tally.mean_agreement)

    def metric(self, name: str, value: float) -> None:
        """Record a number of the manifest. Kubeflow refuses NaN, so only finite ones are kept."""
        if math.isfinite(value):
            self.metrics[name] = float(value)


def resolve_input(store: ObjectStore, where: str) -> Path:
    """A prefix of the store if it exists there, an s3:// URI, else a path of this machine."""
    if "://" in where:
        try:
            return local_path(where)
        except KeyError:
            raise UserInputError(f"there is nothing at {where}; check the recipe") from None
    if not where.startswith("/") and store.exists(where):
        return store.local(where)
    path = Path(where)
    if not path.exists():
        raise UserInputError(
            f"input {where!r} is neither in {store.uri} nor a path; check the recipe"
        )
    return path


def corrections_place(store: ObjectStore, recipe: Recipe) -> str | None:
    """Where the recipe's corrections lie: a key of the store if there is one, else a path."""
    where = recipe.data.corrections
    if not where:
        return None
    inside = "://" not in where and not where.startswith("/") and store.exists(where)
    return where if inside else settings.resolve(where)


def input_digest(store: ObjectStore, where: str, read: Reader = known) -> str:
    """Digest of a stage's output (by its manifest), or of a plain file or folder (by content).

    `<prefix>/checkpoint`, a folder that a stage committed, has the digest that a plain copy of it
    has, but is read from the stage's manifest instead of hashed again. What an s3:// URI names
    counts by the endpoint's entity tags, so that nothing is downloaded to be compared. `read` says
    what stands for the files of this machine.
    """
    if "://" in where:
        outside, key = open_uri(where)
        tags = outside.tags(key)
        if not tags:
            raise UserInputError(f"there is nothing at {where}; check the recipe")
        return digest_of([[name.removeprefix(key), tags[name]] for name in sorted(tags)])
    if not where.startswith("/"):
        manifest = read_manifest(store, where)
        if manifest is not None:
            return manifest.digest()
        for parent in [str(p) for p in PurePosixPath(where).parents][:-1]:
            manifest = read_manifest(store, parent)
            if manifest is not None:
                below = where.removeprefix(f"{parent}/") + "/"
                return digest_of(
                    [
                        [output.path.removeprefix(below), output.sha256]
                        for output in sorted(manifest.outputs, key=lambda o: o.path)
                        if output.path.startswith(below)
                    ]
                )
        if where.startswith("runs/"):
            raise UserInputError(
                f"input {where!r} is of a stage that has not finished; run it first"
            )
    found = read(resolve_input(store, where))
    return digest_of([[name, found[name]] for name in sorted(found)])


def stage_fingerprint(store: ObjectStore, spec: StageSpec, read: Reader = known) -> str:
    """What determines the result of `spec`: its part of the recipe, loop, phase and inputs."""
    recipe = spec.recipe.model_dump(mode="json")
    settings = {name: _part(recipe, name) for name in SECTIONS[spec.stage]}
    settings |= {"loop": spec.loop, "phase": spec.phase.value}
    if "reward" in settings and spec.recipe.reward.judge is not None:
        from pelican.rewards.judge import PROMPT_VERSION

        settings["judge_prompt"] = PROMPT_VERSION
    inputs = {name: input_digest(store, at, read) for name, at in sorted(spec.inputs.items())}
    return fingerprint(spec.stage, settings, inputs)


def _part(tree: Any, name: str) -> Any:
    """A section or field of a recipe by its dotted name."""
    for key in name.split("."):
        tree = tree[key]
    return tree


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


class _Ranks:
    """The processes of one job; alone unless torchrun started several. Torch only if several."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        if self.size > 1:
            import torch
            import torch.distributed as dist

            if not dist.is_initialized():
                backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
                # A rank that fails is seen by torchrun; a slow one may take hours.
                dist.init_process_group(backend, timeout=timedelta(hours=24))

    def leave(self) -> None:
        """End the group, so that torch does not complain about it at exit."""
        if self.size > 1:
            import torch.distributed as dist

            dist.destroy_process_group()

    def from_main(self, value: Any) -> Any:
        """The value that rank 0 gave."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def all(self, value: Any) -> list[Any]:
        """The values of all ranks; waits for the slowest."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


def finished_manifest(store: ObjectStore, spec: StageSpec) -> Manifest | None:
    """The stage's manifest if it is of the same recipe and inputs: then nothing is left to do."""
    done = read_manifest(store, spec.output)
    return done if done is not None and done.fingerprint == stage_fingerprint(store, spec) else None


def begin(store: ObjectStore, spec: StageSpec) -> str | Manifest:
    """Rank 0 clears what is of another recipe; gives the fingerprint, or the finished manifest."""
    identity = stage_fingerprint(store, spec)
    done = read_manifest(store, spec.output)
    if done is not None and done.fingerprint == identity:
        return done
    if done is not None:
        store.delete(spec.output)  # of another recipe or other inputs
    if store.exists(spec.output) and _mark(store, spec) != identity:
        store.delete(spec.output)  # half done, of another recipe
    store.write(
        f"{spec.output}/{_SEEN}", f"{stage_fingerprint(store, spec, seen)} {identity}".encode()
    )
    store.write(f"{spec.output}/{_MARK}", identity.encode())
    return identity


def identity_seen(store: ObjectStore, spec: StageSpec) -> str | None:
    """The fingerprint that rank 0 found, if the inputs have the sizes and times here that it saw.

    So a replica need not read its inputs. None says nothing: they may be copies of another time.
    """
    try:
        found, _, identity = store.read(f"{spec.output}/{_SEEN}").decode().partition(" ")
    except KeyError:
        return None
    return identity if found == stage_fingerprint(store, spec, seen) else None


def open_or_finished(store: ObjectStore, spec: StageSpec, identity: str) -> str | Manifest | None:
    """What `begin` of rank 0 gave, seen from another process; None if it has not begun."""
    done = read_manifest(store, spec.output)
    if done is not None:
        return done if done.fingerprint == identity else None
    return identity if _mark(store, spec) == identity else None


def _mark(store: ObjectStore, spec: StageSpec) -> str:
    try:
        return store.read(f"{spec.output}/{_MARK}").decode()
    except KeyError:
        return ""


def commit(context: StageContext, identity: str, started: datetime) -> Manifest:
    """Write the manifest over what lies below the stage's prefix."""
    spec, store = context.spec, context.store
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


def run_stage(spec: StageSpec) -> Manifest:
    """Run one stage unless its manifest is there already; called once by every rank of the job."""
    store = open_store(spec.store)
    module = importlib.import_module(f"pelican.stages.{spec.stage.replace('-', '_')}")
    if hasattr(module, "finish"):
        from pelican.stages.replicas import run_replica

        return run_replica(store, spec, module)
    ranks = _Ranks()
    begun: str | Manifest = ranks.from_main(begin(store, spec) if ranks.rank == 0 else None)
    if isinstance(begun, Manifest):
        ranks.leave()
        return begun
    context = StageContext(spec, store, ranks.rank, ranks.size, barrier=lambda: ranks.all(None))
    if store.remote:
        if _local_rank() == 0:  # of an attempt that was cut off here
            shutil.rmtree(store.local_root(spec.output))
        context.barrier()
    started = now()
    key = spec.output.replace("/", "-")
    telemetry = exporter.open_stage(spec.stage, spec.phase.value, key, lambda: ranks.all(None))
    with telemetry:
        module.run(context)
    counts: Counter[str] = Counter()
    for share in ranks.all(dict(context.counts)):
        counts.update(share)
    context.counts = counts
    cpu_seconds = sum(ranks.all(cpu_seconds_used()))
    context.notes["resources"] = resources(spec, ranks.size, started, cpu_seconds)
    manifest = None
    if ranks.rank == 0:
        store.upload(spec.output)
        manifest = commit(context, begun, started)
        record.finished(manifest, ranks.size)
    committed: Manifest = ranks.from_main(manifest)
    telemetry.finish()
    ranks.leave()
    return committed


__all__ = [
    "MANIFEST",
    "STAGES",
    "StageContext",
    "StageName",
    "StageSpec",
    "finished_manifest",
    "run_stage",
]

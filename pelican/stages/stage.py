"""What a stage is told: its specification, its inputs, its ranks."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from pydantic import Field

from pelican.base.model import Frozen, digest_of
from pelican.config import env
from pelican.config.recipe import Recipe, RewardConfig
from pelican.data.versions import Reader, trust_versions
from pelican.errors import UserInputError
from pelican.records import Phase
from pelican.storage import local_path, open_uri
from pelican.storage.manifests import read_manifest
from pelican.storage.store import ObjectStore

# Where a stage's inputs lie, and what tells one from a changed one.

CORRECTIONS = "corrections"  # an input beside `pool`


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
    return where if inside else env.resolve(where)


def input_digest(store: ObjectStore, where: str, read: Reader = trust_versions) -> str:
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


# The processes of one job.


class Ranks:
    """The processes of one job; alone unless torchrun started several. Torch only if several."""

    def __init__(self) -> None:
        self.rank = env.rank()
        self.size = env.world_size()
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


# What a stage is told: its name, its place in a run, its inputs and the recipe.

StageName = Literal["rollout", "reward", "filter", "train-rl", "distill", "train-sft", "eval"]
STAGES: tuple[StageName, ...] = get_args(StageName)

# Stages whose processes are replicas: see pelican.stages.replicas.
REPLICATED: frozenset[StageName] = frozenset({"rollout"})


class StageSpec(Frozen):
    """All that a stage needs to know: `pelican stage NAME --spec FILE`.

    `inputs` maps a name to a prefix of the store (another stage's output) or to a path of data or
    a checkpoint; `output` is the prefix that the stage owns.
    """

    stage: StageName
    store: str = Field(description="URI of the store")
    run: str
    loop: int = Field(ge=0)
    phase: Phase
    output: str
    inputs: dict[str, str]
    recipe: Recipe

    @property
    def rewards(self) -> RewardConfig:
        """How this stage scores. Flips are in what RL learns from, not in what is taught or measured.

        So SFT's weak set is mined from rewards as they are.
        """
        flips = self.stage == "train-rl" or (self.stage == "reward" and self.phase is Phase.RL)
        return self.recipe.reward if flips else self.recipe.reward.honest

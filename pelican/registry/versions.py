"""Versions of a model: a checkpoint and where it comes from, committed once and never changed."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pelican import settings
from pelican.digest import digest_of
from pelican.errors import UserInputError
from pelican.frozen import Frozen
from pelican.storage.manifests import OutputFile, file_digest, now, versions
from pelican.storage.objects import ObjectStore

ROOT = "registry"
VERSION = "version.json"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")


class DataUse(Frozen):
    """One data version that a model has learned from: its rows and what was held out of them."""

    version: str
    digest: str
    train: str | None = None
    held: str | None = None
    samples: int = 0
    held_samples: int = 0
    quarantined: int = 0


class Lineage(Frozen):
    """Where a model comes from. `data` is the parent's with the newest last."""

    origin: Literal["imported", "run"]
    source: str
    parent: str | None = None
    run: str | None = None
    recipe: str | None = None
    recipe_name: str | None = None
    code: dict[str, str] = Field(default_factory=dict)
    data: list[DataUse] = Field(default_factory=list)
    ledgers: list[str] = Field(default_factory=list)
    scores: dict[str, Any] = Field(default_factory=dict)
    report: str | None = None


class ModelVersion(Frozen):
    """`version.json`."""

    model: str
    version: int
    created: datetime
    digest: str
    files: list[OutputFile]
    lineage: Lineage

    @property
    def name(self) -> str:
        return f"{self.model}:{self.version}"

    @property
    def checkpoint(self) -> str:
        """Key of the checkpoint in the store."""
        return f"{version_prefix(self.model, self.version)}/checkpoint"


def check_model_name(model: str) -> str:
    """`model`, if it can be part of a run's name and of a Kubernetes name."""
    if not _NAME.fullmatch(model):
        raise UserInputError(
            f"model name {model!r} is not 1 to 40 lower-case letters, digits and inner dashes"
        )
    return model


def version_prefix(model: str, version: int) -> str:
    return f"{ROOT}/{check_model_name(model)}/versions/{version}"


def read_version(store: ObjectStore, model: str, version: int) -> ModelVersion | None:
    """A committed version, or None."""
    try:
        text = store.read(f"{version_prefix(model, version)}/{VERSION}")
    except KeyError:
        return None
    return ModelVersion.model_validate_json(text)


def require_version(store: ObjectStore, model: str, version: int) -> ModelVersion:
    found = read_version(store, model, version)
    if found is None:
        raise UserInputError(
            f"there is no model version {model}:{version}; `pelican models list` names those there are"
        )
    return found


def list_models(store: ObjectStore) -> list[str]:
    """Names of the models that have a version."""
    return sorted({key.split("/")[1] for key in store.keys(ROOT) if key.endswith(f"/{VERSION}")})


def list_versions(store: ObjectStore, model: str) -> list[ModelVersion]:
    """Committed versions of one model, the newest first."""
    found = [read_version(store, model, number) for number in _numbers(store, model)]
    return sorted((v for v in found if v), key=lambda v: v.version, reverse=True)


def register(
    store: ObjectStore, model: str, checkpoint: Path, lineage: Lineage, card: str = ""
) -> ModelVersion:
    """Copy a checkpoint into the registry as the next version; the same source gives the same one.

    `lineage.source` names what the version is made from (a run, or the digest of an imported
    folder): a call that was cut off, or is made twice, ends with one version.
    """
    number = _claim(store, model, lineage.source)
    there = read_version(store, model, number)
    if there is not None:
        return there
    prefix = version_prefix(model, number)
    files = []
    for path in sorted(p for p in checkpoint.rglob("*") if p.is_file()):
        name = path.relative_to(checkpoint).as_posix()
        store.put(f"{prefix}/checkpoint/{name}", path)
        files.append(OutputFile(path=name, size=path.stat().st_size, sha256=file_digest(path)))
    if not files:
        raise UserInputError(f"{checkpoint} holds no file; give a checkpoint's folder")
    version = ModelVersion(
        model=model,
        version=number,
        created=now(),
        digest=digest_of([[file.path, file.sha256] for file in files]),
        files=files,
        lineage=lineage,
    )
    if card:
        store.write(f"{prefix}/README.md", card.encode())
    store.write(f"{prefix}/{VERSION}", version.model_dump_json(indent=1).encode(), if_absent=True)
    return require_version(store, model, number)


def checkpoint_digest(folder: Path) -> str:
    """Digest of a checkpoint by content, as `ModelVersion.digest` is."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    return digest_of([[p.relative_to(folder).as_posix(), file_digest(p)] for p in paths])


def _claim(store: ObjectStore, model: str, source: str) -> int:
    """The number that belongs to `source`, taken by a write that only one can win."""
    while True:
        taken = {n: _claimed_by(store, model, n) for n in _numbers(store, model)}
        for number, claimed in taken.items():
            if claimed == source:
                return number
        number = max(taken, default=0) + 1
        data = json.dumps({"source": source, "at": now().isoformat()}, indent=1).encode()
        if store.write(f"{version_prefix(model, number)}/claim.json", data, if_absent=True):
            return number


def _claimed_by(store: ObjectStore, model: str, number: int) -> str | None:
    try:
        return str(json.loads(store.read(f"{version_prefix(model, number)}/claim.json"))["source"])
    except KeyError:
        return None


def _numbers(store: ObjectStore, model: str) -> Iterator[int]:
    """Numbers that were claimed, whether or not their version is whole."""
    below = f"{ROOT}/{check_model_name(model)}/versions"
    for key in store.keys(below):
        number, _, name = key.removeprefix(f"{below}/").partition("/")
        if name == "claim.json" and number.isdecimal():
            yield int(number)


@lru_cache
def code_version() -> dict[str, str]:
    """Packages, and the commit: PELICAN_COMMIT, else what git says of the checkout."""
    found = versions()
    commit = os.environ.get("PELICAN_COMMIT", "")
    if not commit:
        asked = [
            "git",
            "-C",
            str(settings.home()),
            "describe",
            "--always",
            "--dirty",
            "--abbrev=12",
        ]
        try:
            commit = subprocess.run(
                asked, capture_output=True, text=True, check=True, timeout=30
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            commit = "unknown"
    return {**found, "commit": commit}

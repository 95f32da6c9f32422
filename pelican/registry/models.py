"""Versions of a model with their lineage, the aliases that point at them, and what was decided of them."""

from __future__ import annotations

import getpass
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pelican.base.model import Frozen, digest_of
from pelican.config import env
from pelican.errors import DamagedError, UserInputError
from pelican.evaluation.gate import Check
from pelican.storage.digests import file_digest
from pelican.storage.manifests import OutputFile, now, versions
from pelican.storage.reading import OnDamage, parse_record, read_record, refuse, tell
from pelican.storage.store import ObjectStore
from pelican.storage.verify import REGISTRY, VERSION, find_damage

# Versions of a model: a checkpoint and where it comes from, committed once and never changed.

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
    """`model` itself, if it can be part of a run's name and of a Kubernetes name.

    Raises UserInputError otherwise.
    """
    if not _NAME.fullmatch(model):
        raise UserInputError(
            f"model name {model!r} is not 1 to 40 lower-case letters, digits and inner dashes"
        )
    return model


def version_prefix(model: str, version: int) -> str:
    return f"{REGISTRY}/{check_model_name(model)}/versions/{version}"


def read_version(
    store: ObjectStore, model: str, version: int, on_damage: OnDamage = refuse
) -> ModelVersion | None:
    """A committed version, or None."""
    return read_record(
        store, f"{version_prefix(model, version)}/{VERSION}", ModelVersion, on_damage
    )


def require_version(store: ObjectStore, model: str, version: int) -> ModelVersion:
    found = read_version(store, model, version)
    if found is None:
        raise UserInputError(
            f"there is no model version {model}:{version}; `pelican models list` names those there are"
        )
    return found


def check_version(store: ObjectStore, version: ModelVersion) -> None:
    """Read every byte of a version and compare it. Raises DamagedError."""
    files = {f"{version.checkpoint}/{file.path}": file for file in version.files}
    damaged = find_damage(store, files, trust=False)
    if damaged:
        raise DamagedError(
            f"{damaged[0]} is not what was registered as {version.name}; restore it from a backup of"
            " the store, or take another version"
        )


def list_models(store: ObjectStore) -> list[str]:
    """Names of the models that have a version."""
    return sorted(
        {key.split("/")[1] for key in store.keys(REGISTRY) if key.endswith(f"/{VERSION}")}
    )


def list_versions(
    store: ObjectStore, model: str, on_damage: OnDamage = refuse
) -> list[ModelVersion]:
    """Committed versions of one model, the newest first."""
    found = [read_version(store, model, number, on_damage) for number in _numbers(store, model)]
    return sorted((v for v in found if v), key=lambda v: v.version, reverse=True)


def register(
    store: ObjectStore, model: str, checkpoint: Path, lineage: Lineage, card: str = ""
) -> ModelVersion:
    """Copy a checkpoint into the registry as the next version; the same source gives the same one.

    Args:
        store: With the registry.
        model: Its name.
        checkpoint: The folder to copy.
        lineage: Its `source` names what the version is made from (a run, or the digest of an imported
            folder): a call that was cut off, or is made twice, ends with one version.
        card: The text of README.md, if any.

    Raises:
        UserInputError: The folder holds no file.
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
    key = f"{version_prefix(model, number)}/claim.json"
    claim = read_record(store, key, _Claim, tell)
    if claim is not None:
        return claim.source
    version = read_version(store, model, number)  # of a damaged claim, it has the source, too
    return version.lineage.source if version else None


class _Claim(Frozen):
    """`claim.json`: whose the number is."""

    source: str
    at: datetime


def _numbers(store: ObjectStore, model: str) -> Iterator[int]:
    """Numbers that were claimed, whether or not their version is whole."""
    below = f"{REGISTRY}/{check_model_name(model)}/versions"
    for key in store.keys(below):
        number, _, name = key.removeprefix(f"{below}/").partition("/")
        if name == "claim.json" and number.isdecimal():
            yield int(number)


@lru_cache
def code_version() -> dict[str, str]:
    """Packages, and the commit: PELICAN_COMMIT, else what git says of the checkout."""
    found = versions()
    commit = env.read("PELICAN_COMMIT")
    if not commit:
        asked = [
            "git",
            "-C",
            str(env.home()),
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


# What was decided about a version, beside it: a gate's checks with their numbers, or an override.


class Decision(Frozen):
    """`decisions/<digest>.json`. `against` is the version that was current then."""

    kind: Literal["gate", "override"]
    passed: bool
    against: str | None
    checks: list[Check] = Field(default_factory=list)
    by: str
    reason: str = ""
    at: datetime

    @property
    def reasons(self) -> list[str]:
        """Why not; or, if it passed, every check's sentence, or the person's reason."""
        failed = [check.reason for check in self.checks if not check.passed]
        if self.kind == "override":
            return [f"overridden by {self.by}: {self.reason}"]
        return failed or [check.reason for check in self.checks]


def record_decision(store: ObjectStore, model: str, version: int, decision: Decision) -> Decision:
    """Store a decision about a version and return it.

    If the same decision, apart from its time, is stored already, that first one is returned.
    """
    identity = digest_of(decision.model_dump(mode="json", exclude={"at"}))
    key = f"{version_prefix(model, version)}/decisions/{identity}.json"
    if store.write(key, decision.model_dump_json(indent=1).encode(), if_absent=True):
        return decision
    return parse_record(store, key, store.read(key), Decision)


def read_decisions(
    store: ObjectStore, model: str, version: int, on_damage: OnDamage = refuse
) -> list[Decision]:
    """All of them, the newest first."""
    prefix = f"{version_prefix(model, version)}/decisions"
    read = (read_record(store, key, Decision, on_damage) for key in store.keys(prefix))
    found = [decision for decision in read if decision]
    return sorted(found, key=lambda decision: decision.at, reverse=True)


def latest_decision(store: ObjectStore, model: str, version: int) -> Decision | None:
    return next(iter(read_decisions(store, model, version)), None)


def override(
    store: ObjectStore, model: str, version: int, against: str | None, by: str, reason: str
) -> Decision:
    """A person promotes what the gate refused or has not seen; the reason is kept."""
    made = Decision(kind="override", passed=True, against=against, by=by, reason=reason, at=now())
    return record_decision(store, model, version, made)


# The aliases of a model: one object, moved by conditional writes, that keeps every move.

Alias = Literal["candidate", "current", "previous"]
ALIASES: tuple[Alias, ...] = ("candidate", "current", "previous")


class Move(Frozen):
    """One change of what the aliases point at."""

    at: datetime
    action: Literal["candidate", "promote", "rollback"]
    version: int
    before: int | None
    by: str
    reason: str = ""


class Aliases(Frozen):
    """`aliases.json`."""

    candidate: int | None = None
    current: int | None = None
    previous: int | None = None
    history: list[Move] = Field(default_factory=list)

    def names_of(self, version: int) -> list[str]:
        return [name for name in ALIASES if getattr(self, name) == version]


class MovedError(UserInputError):
    """`current` is not what the caller decided on."""


def read_aliases(store: ObjectStore, model: str, on_damage: OnDamage = refuse) -> Aliases:
    return read_record(store, _key(model), Aliases, on_damage) or Aliases()


def _require_model(store: ObjectStore, model: str) -> None:
    known = list_models(store)
    if model not in known:
        there = ", ".join(known) or "none; `pelican models add NAME CHECKPOINT` registers one"
        raise UserInputError(f"there is no model {model!r}; there are {there}")


def resolve_model(store: ObjectStore, address: str) -> ModelVersion:
    """`tiny` (its current), `tiny:3`, or `tiny:candidate`. Raises UserInputError."""
    model, _, wanted = address.partition(":")
    check_model_name(model)
    if wanted.isdecimal():
        return require_version(store, model, int(wanted))
    wanted = wanted or "current"
    if wanted not in ALIASES:
        raise UserInputError(
            f"{address!r}: {wanted!r} is neither a number nor one of {', '.join(ALIASES)}"
        )
    _require_model(store, model)
    number = getattr(read_aliases(store, model), wanted)
    if number is None:
        raise UserInputError(
            f"model {model!r} has no {wanted} version; `pelican models list` names those there are"
        )
    return require_version(store, model, number)


def set_candidate(store: ObjectStore, model: str, version: int, by: str) -> Aliases:
    """Point `candidate` at a version that waits for a decision."""
    require_version(store, model, version)

    def change(aliases: Aliases) -> Aliases:
        if version in (aliases.candidate, aliases.current):
            return aliases
        move = _move("candidate", version, aliases.candidate, by)
        return aliases.model_copy(
            update={"candidate": version, "history": [*aliases.history, move]}
        )

    return _change(store, model, change)


def promote(
    store: ObjectStore, model: str, version: int, by: str, expected: int | None, reason: str = ""
) -> Aliases:
    """Make `version` the current one. Raises MovedError if current is not `expected` any more.

    A version needs a decision in its favour, or a person's override, which is such a decision. The
    first version of a model needs none: there is nothing that it could be worse than. Every byte of
    it is read and compared first.
    """
    check_version(store, require_version(store, model, version))
    decision = latest_decision(store, model, version)

    def change(aliases: Aliases) -> Aliases:
        if aliases.current == version:
            return aliases
        if aliases.current != expected:
            raise MovedError(
                f"{model}:{version} was judged against version {expected or 'none'}, but current is"
                f" {aliases.current} now; retrain from that, or give an override with a reason"
            )
        if aliases.current is not None and (decision is None or not decision.passed):
            said = "no gate has judged it" if decision is None else decision.reasons[0]
            raise UserInputError(
                f"{model}:{version} is not promoted: {said}; `--override REASON` does it anyway"
            )
        move = _move("promote", version, aliases.current, by, reason)
        return Aliases(
            candidate=None if aliases.candidate == version else aliases.candidate,
            current=version,
            previous=aliases.current,
            history=[*aliases.history, move],
        )

    return _change(store, model, change)


def rollback(store: ObjectStore, model: str, by: str, reason: str = "") -> Aliases:
    """Exchange `current` and `previous`; again undoes it."""
    _require_model(store, model)

    def change(aliases: Aliases) -> Aliases:
        if aliases.previous is None or read_version(store, model, aliases.previous) is None:
            raise UserInputError(f"model {model!r} has no previous version to go back to")
        move = _move("rollback", aliases.previous, aliases.current, by, reason)
        return aliases.model_copy(
            update={
                "current": aliases.previous,
                "previous": aliases.current,
                "history": [*aliases.history, move],
            }
        )

    return _change(store, model, change)


def user_name() -> str:
    """The user's name, for a move made by hand."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a pod's user id without a name
        return "unknown"


def _move(
    action: Literal["candidate", "promote", "rollback"],
    version: int,
    before: int | None,
    by: str,
    reason: str = "",
) -> Move:
    return Move(at=now(), action=action, version=version, before=before, by=by, reason=reason)


def _key(model: str) -> str:
    return f"{REGISTRY}/{check_model_name(model)}/aliases.json"


def _read(store: ObjectStore, model: str) -> tuple[Aliases, str | None]:
    try:
        data, tag = store.read_tagged(_key(model))
    except KeyError:
        return Aliases(), None
    return parse_record(store, _key(model), data, Aliases), tag


def _change(store: ObjectStore, model: str, change: Callable[[Aliases], Aliases]) -> Aliases:
    """Apply `change` to what is there, again if someone else was faster."""
    while True:
        before, tag = _read(store, model)
        after = change(before)
        if after == before:
            return before
        data = after.model_dump_json(indent=1).encode()
        if store.write(_key(model), data, if_absent=tag is None, if_tag=tag):
            return after

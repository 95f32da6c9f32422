"""The aliases of a model: one object, moved by conditional writes, that keeps every move."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from datetime import datetime
from typing import Literal

from pydantic import Field

from pelican.errors import UserInputError
from pelican.frozen import Frozen
from pelican.registry.decisions import latest_decision
from pelican.registry.versions import (
    ROOT,
    ModelVersion,
    check_model_name,
    list_models,
    read_version,
    require_version,
)
from pelican.storage.manifests import now
from pelican.storage.objects import ObjectStore

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


def read_aliases(store: ObjectStore, model: str) -> Aliases:
    return _read(store, model)[0]


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
    first version of a model needs none: there is nothing that it could be worse than.
    """
    require_version(store, model, version)
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
    """Who is named in a move made by hand."""
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
    return f"{ROOT}/{check_model_name(model)}/aliases.json"


def _read(store: ObjectStore, model: str) -> tuple[Aliases, str | None]:
    try:
        data, tag = store.read_tagged(_key(model))
    except KeyError:
        return Aliases(), None
    return Aliases.model_validate_json(data), tag


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

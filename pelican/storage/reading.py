"""Records of a store, checked when they are read: a damaged one is named, and never believed."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from pelican.errors import DamagedError
from pelican.storage.store import ObjectStore

Record = TypeVar("Record", bound=BaseModel)
OnDamage = Callable[[DamagedError], object]
MEND = "restore it from a copy of the store, or delete it with what it belongs to"


def refuse(error: DamagedError) -> None:
    """What whoever needs the record does of a damaged one; a reader for people notes it instead."""
    raise error


def tell(error: DamagedError) -> None:
    """What whoever goes on without the record does."""
    print(f"left out: {error}", file=sys.stderr, flush=True)


def pass_over(error: DamagedError) -> None:
    """What whoever makes the record again does."""


def damaged(store: ObjectStore, key: str, why: object, mend: str = MEND) -> DamagedError:
    """The error that names an object, what is wrong with it, and the way out."""
    reason = " ".join(str(why).split())
    return DamagedError(f"{store.uri}/{key} is damaged ({reason[:200]}); {mend}")


def read_record(
    store: ObjectStore,
    key: str,
    kind: type[Record],
    on_damage: OnDamage = refuse,
    *,
    sha256: str | None = None,
) -> Record | None:
    """The record at `key`; None if there is none, or if it is damaged and `on_damage` returns.

    Args:
        store: where it lies.
        key: of the object, JSON.
        kind: what it must be.
        on_damage: called with the error of a damaged one, such as `refuse`, or a list's `append`.
        sha256: of its bytes, as far as that is known.
    """
    try:
        data = store.read(key)
        if sha256 is not None and sha256 != hashlib.sha256(data).hexdigest():
            raise damaged(store, key, "its bytes are not those that were written")
        return parse_record(store, key, data, kind)
    except KeyError:
        return None
    except DamagedError as error:
        on_damage(error)
        return None


def parse_record(store: ObjectStore, key: str, data: bytes, kind: type[Record]) -> Record:
    """What was read of `key` as a record. Raises DamagedError."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise damaged(store, key, first_fault(error)) from None


def first_fault(error: ValidationError) -> str:
    """The first of pydantic's complaints, with the field that it is about."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    return f"{field}: {first['msg']}" if field else first["msg"]

"""The trigger's records in the store: none is believed before it is whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from pelican import errors
from pelican.base import parse
from pelican.base.model import Frozen, pop_check, with_check
from pelican.errors import UserInputError
from pelican.storage.store import ObjectStore


class Stored(Frozen):
    """A record. `check`: in the store, the digest of all other fields; records of before have none."""

    check: str = Field("", exclude=True, repr=False)


Record = TypeVar("Record", bound=Stored)


class DamagedError(errors.DamagedError, UserInputError):
    """A record that can't be believed; `tag` is that of the object, for whoever replaces it."""

    def __init__(self, store: ObjectStore, key: str, tag: str | None, way_out: str = "") -> None:
        way_out = way_out or "restore it, or delete it and deliver what it was about again"
        super().__init__(f"{store.uri}/{key} is damaged; {way_out}")
        self.key, self.tag = key, tag


def encode(record: Stored) -> bytes:
    """A record with its check."""
    return json.dumps(with_check(record.model_dump(mode="json"))).encode()


def parse_json(data: bytes) -> Any:
    """What `data` holds, or None if it is no JSON, or nested without end."""
    try:
        return parse.parse_json(data)
    except parse.JSONError:
        return None


def read_record(
    store: ObjectStore,
    key: str,
    kind: type[Record],
    is_of: Callable[[Record], bool] = lambda record: True,
) -> tuple[Record, str]:
    """A record and its tag.

    Args:
        store: where it is.
        key: of the object.
        kind: of the record.
        is_of: whether a record belongs to this key, as far as the key tells.

    Raises:
        KeyError: there is none.
        DamagedError: it is cut, changed, or another's.
    """
    data, tag = store.read_tagged(key, checked=False)
    tree = parse_json(data)
    try:
        if isinstance(tree, dict):
            whole = pop_check(tree)
            record = kind.model_validate(tree)
            if whole and is_of(record):
                return record, tag
    except (ValidationError, ValueError):
        pass
    raise DamagedError(store, key, tag)

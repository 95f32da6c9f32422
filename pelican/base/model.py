"""The base of everything that is read and written as JSON or Parquet, and its digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

# Digests: a value is named by its content.


def digest_of(value: object) -> str:
    """SHA-256 of the canonical JSON of `value`, shortened to 16 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


_CHECK = "check"


def with_check(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with a digest of itself, so that no damaged one is believed."""
    return {**tree, _CHECK: digest_of(tree)}


def pop_check(tree: dict[str, Any]) -> bool:
    """Take the digest off that `with_check` added; whether it is that of the rest.

    An object without one is of before 2026-12, and passes.
    """
    return tree.pop(_CHECK, None) in (None, digest_of(tree))


# The base of everything that is read and written as JSON or Parquet.


class Frozen(BaseModel):
    """Unknown fields are refused, values are fixed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# What every section of a recipe has in common.


class Section(Frozen):
    """Defaults are checked like given values; numbers are finite."""

    model_config = ConfigDict(validate_default=True, allow_inf_nan=False)

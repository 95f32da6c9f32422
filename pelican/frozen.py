"""The base of everything that is read and written as JSON or Parquet."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Unknown fields are refused, values are fixed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

"""The difficulty-aware buffer, and the weak set that RL could not solve."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from pelican.recipe import FilterConfig

BUFFER = pa.schema(
    [
        ("sample_id", pa.string()),
        ("success_rate", pa.float64()),
        ("mean_reward", pa.float64()),
        ("family", pa.string()),
        ("dimension", pa.string()),
    ]
)


@dataclass(frozen=True)
class Buffer:
    """The samples to practise (columns of BUFFER, by id), and where all the others went.

    `counts`: buffer + dropped_mastered + dropped_intractable + dropped_practice = samples.
    """

    rows: pl.DataFrame
    counts: dict[str, int]


def build_buffer(rates: pl.DataFrame, config: FilterConfig, seed: int) -> Buffer:
    """Choose among `rates` (of `pelican.practice.success`); the order of its rows does not matter.

    difficulty: no SR = 1; all 0 < SR < 1, those nearest 0.5 first if `buffer_size` limits; SR = 0
    for at most `intractable_share` of what the buffer then holds. random: as many samples, drawn
    from all, whatever their SR.
    """
    practice = rates.filter(pl.col("outcome") == "practice")
    intractable = rates.filter(pl.col("outcome") == "intractable")
    size = config.buffer_size
    if size is not None and len(practice) > size:
        # Stable, so that among equals the draw decides; rounded, for 0.3 and 0.7 are equals.
        distance = (pl.col("success_rate") - 0.5).abs().round(9)
        practice = _drawn(practice, seed).sort(distance, maintain_order=True).head(size)
    room = math.inf if size is None else size - len(practice)
    allowed = int(min(intractable_cap(len(practice), config.intractable_share), room))
    if len(intractable) > allowed:
        intractable = _drawn(intractable, seed).head(allowed)
    chosen = pl.concat([practice, intractable])
    if config.strategy == "random":
        chosen = _drawn(rates, seed).head(len(chosen))
    kept = dict(chosen["outcome"].value_counts().iter_rows())
    there = dict(rates["outcome"].value_counts().iter_rows())
    counts = {"samples": len(rates), "buffer": len(chosen)}
    for outcome in ("mastered", "practice", "intractable"):
        counts[outcome] = there.get(outcome, 0)
        counts[f"dropped_{outcome}"] = there.get(outcome, 0) - kept.get(outcome, 0)
    return Buffer(chosen.select(BUFFER.names).sort("sample_id"), counts)


def intractable_cap(practice: int, share: float) -> int:
    """The largest z with z / (practice + z) <= share: the cap is a share of the final buffer."""
    return math.floor(share * practice / (1.0 - share) + 1e-9)


def weak_set(rates: pl.DataFrame) -> pl.DataFrame:
    """The samples with SR = 0 (columns of BUFFER, by id)."""
    weak = rates.filter(pl.col("outcome") == "intractable")
    return weak.select(BUFFER.names).sort("sample_id")


def _drawn(rates: pl.DataFrame, seed: int) -> pl.DataFrame:
    """The samples in an order drawn from the seed; the same on every machine and polars version."""
    digests = [
        hashlib.blake2b(f"{seed}/{name}".encode("utf-8", "replace"), digest_size=8).digest()
        for name in rates["sample_id"]
    ]
    draws = np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)
    order = rates.with_columns(pl.Series("draw", draws)).sort("draw", "sample_id")
    return order.drop("draw")

"""The difficulty-aware buffer, and the weak set that RL could not solve."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

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
    drawn = rates.with_columns(
        pl.Series("draw", [_draw(seed, name) for name in rates["sample_id"]], dtype=pl.UInt64)
    ).sort("draw", "sample_id")
    practice = drawn.filter(pl.col("outcome") == "practice")
    intractable = drawn.filter(pl.col("outcome") == "intractable")
    if config.buffer_size is not None:
        # Stable, so that among equals the draw decides; rounded, for 0.3 and 0.7 are equals.
        distance = (pl.col("success_rate") - 0.5).abs().round(9)
        practice = practice.sort(distance, maintain_order=True).head(config.buffer_size)
    room = math.inf if config.buffer_size is None else config.buffer_size - len(practice)
    allowed = min(intractable_cap(len(practice), config.intractable_share), room)
    chosen = pl.concat([practice, intractable.head(int(allowed))])
    if config.strategy == "random":
        chosen = drawn.head(len(chosen))
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


def _draw(seed: int, sample_id: str) -> int:
    """A sample's place in the seeded order; the same on every machine and polars version."""
    key = f"{seed}/{sample_id}".encode("utf-8", "replace")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")

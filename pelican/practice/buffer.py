"""The difficulty-aware buffer, and the weak set that RL could not solve."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from pelican.recipe import FilterConfig

BUFFER = ("sample_id", "success_rate", "mean_reward", "family", "dimension")
Rows = npt.NDArray[np.int64]  # numbers of rows


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
    rows = {name: _rows(rates, name) for name in ("mastered", "practice", "intractable")}
    practice, intractable = rows["practice"], rows["intractable"]
    size = config.buffer_size
    if size is not None and len(practice) > size:
        practice = _drawn(rates, practice, seed)
        # Stable, so that among equals the draw decides; rounded, for 0.3 and 0.7 are equals.
        distance = np.abs(rates["success_rate"].to_numpy()[practice] - 0.5).round(9)
        practice = practice[np.argsort(distance, kind="stable")][:size]
    room = math.inf if size is None else size - len(practice)
    allowed = int(min(intractable_cap(len(practice), config.intractable_share), room))
    if len(intractable) > allowed:
        intractable = _drawn(rates, intractable, seed)[:allowed]
    chosen = np.concatenate([practice, intractable])
    if config.strategy == "random":
        chosen = _drawn(rates, np.arange(len(rates)), seed)[: len(chosen)]
    kept = np.zeros(len(rates), bool)
    kept[chosen] = True
    counts = {"samples": len(rates), "buffer": len(chosen)}
    for outcome, there in rows.items():
        counts[outcome] = len(there)
        counts[f"dropped_{outcome}"] = int((~kept[there]).sum())
    return Buffer(_by_id(rates.select(BUFFER).filter(pl.Series(kept))), counts)


def intractable_cap(practice: int, share: float) -> int:
    """The largest z with z / (practice + z) <= share: the cap is a share of the final buffer."""
    return math.floor(share * practice / (1.0 - share) + 1e-9)


def weak_set(rates: pl.DataFrame) -> pl.DataFrame:
    """The samples with SR = 0 (columns of BUFFER, by id)."""
    return _by_id(rates.select(BUFFER).filter(rates["outcome"] == "intractable"))


def _by_id(rows: pl.DataFrame) -> pl.DataFrame:
    return rows if rows["sample_id"].is_sorted() else rows.sort("sample_id")


def _rows(rates: pl.DataFrame, outcome: str) -> Rows:
    return np.flatnonzero((rates["outcome"] == outcome).to_numpy())


def _drawn(rates: pl.DataFrame, rows: Rows, seed: int) -> Rows:
    """Rows in an order drawn from the seed; the same on every machine and polars version."""
    names = rates["sample_id"].gather(rows)
    start = hashlib.blake2b(f"{seed}/".encode(), digest_size=8)
    digests = []
    for name in names.cast(pl.Binary).to_list():
        digest = start.copy()
        digest.update(name)
        digests.append(digest.digest())
    draws = np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)
    order = pl.DataFrame({"row": rows, "draw": draws, "name": names}).sort("draw", "name")
    drawn: Rows = order["row"].to_numpy()
    return drawn

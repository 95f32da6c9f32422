"""The ledger: per sample, loop and phase how hard it was, and for which policy.

Within loop k the row of phase rl was measured before RL, that of phase sft after RL and before
SFT; so RL lies between (k, rl) and (k, sft), and SFT between (k, sft) and (k + 1, rl). What became
of a sample in between is told by `pelican.report.history`.
"""

from __future__ import annotations

import polars as pl

from pelican.data.tables import LEDGER
from pelican.records import Phase


def ledger_table(rates: pl.DataFrame, loop: int, phase: Phase, policy: str) -> pl.DataFrame:
    """The rows of one loop and phase; `policy` is the digest of what was rolled out."""
    return rates.with_columns(
        pl.lit(loop, dtype=pl.Int32).alias("loop"),
        pl.lit(phase.value).alias("phase"),
        pl.lit(policy).alias("policy"),
    ).select(LEDGER.names)

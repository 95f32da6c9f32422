"""The three tables of a filter stage."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl

from pelican.data.tables import write_frame
from pelican.practice.buffer import Buffer, build_buffer, weak_set
from pelican.practice.ledger import ledger_table
from pelican.recipe import FilterConfig
from pelican.records import Phase

FILES = ("ledger.parquet", "buffer.parquet", "weak.parquet")


def write_tables(
    folder: Path,
    rates: pl.DataFrame,
    config: FilterConfig,
    seed: int,
    *,
    loop: int,
    phase: Phase,
    policy: str,
) -> tuple[Buffer, int]:
    """Write FILES of the success rates; gives the buffer and how many samples are weak.

    The ledger, by far the largest, is written while the buffer is drawn: polars needs no lock of
    Python's, and drawing needs one core.
    """
    with ThreadPoolExecutor(1) as aside:
        ledger = ledger_table(rates, loop, phase, policy)
        written = aside.submit(write_frame, folder / "ledger.parquet", ledger)
        buffer, weak = build_buffer(rates, config, seed), weak_set(rates)
        write_frame(folder / "buffer.parquet", buffer.rows)
        write_frame(folder / "weak.parquet", weak)
        written.result()
    return buffer, len(weak)

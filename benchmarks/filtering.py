"""The filter stage's work on 0.5 M samples x 8 rollouts, against a bare scan and group by polars.

Both read the same Parquet shards in processes of their own, imports and threads warm. Bare: success
rate and mean reward per sample, sorted. The stage: also the join with the pool, the checks, buffer,
weak set and ledger.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.measure import at_most, child, figure, peak_mb

SHARD = 25_000  # samples
TRIES = 8
PARTS = {
    "rates": "against the bare scan: no hashing of ids, but a fourth column and the pool's four",
    "tables": "the bare scan writes nothing",
}


def write(folder: Path, samples: int) -> None:
    """Scores as the reward stage writes them, and the columns of the pool."""
    import polars as pl

    rng = np.random.default_rng(0)
    families = np.array(["affordance", "counting", "temporal", "success", "planning", "prediction"])
    ids = [f"sample-{i:07d}" for i in range(samples)]
    pl.DataFrame(
        {
            "id": ids,
            "family": families[rng.integers(0, 6, samples)],
            "dimension": ["quantitative_numerical"] * samples,
            "source": ["made"] * samples,
        }
    ).write_parquet(folder / "pool.parquet", compression="zstd")
    for start in range(0, samples, SHARD):
        mine = ids[start : start + SHARD]
        skill = np.repeat(np.clip(rng.normal(0.5, 0.5, len(mine)), 0, 1), TRIES)
        success = rng.random(len(skill)) < skill
        pl.DataFrame(
            {
                "sample_id": np.repeat(np.array(mine), TRIES),
                "index": np.tile(np.arange(TRIES, dtype=np.int32), len(mine)),
                "reward": 0.1 + 0.9 * success,
                "format": np.ones(len(skill)),
                "task": success.astype(float),
                "success": success,
                "think_chars": rng.integers(0, 400, len(skill)).astype(np.int32),
                "answer": [str(n) for n in rng.integers(0, 100, len(skill))],
                "reason": np.where(success, "", "wrong"),
            }
        ).write_parquet(folder / f"scores-{start // SHARD:05d}.parquet", compression="zstd")


def bare(folder: Path) -> int:
    import polars as pl

    rates = (
        pl.scan_parquet(sorted(folder.glob("scores-*.parquet")))
        .group_by("sample_id")
        .agg(pl.col("success").mean(), pl.col("reward").mean(), pl.len())
        .sort("sample_id")
        .collect()
    )
    return len(rates)


def stage(folder: Path, parts: dict[str, float]) -> int:
    """`parts`: gets the seconds of each part of the work."""
    import polars as pl

    from pelican.config.recipe import FilterConfig
    from pelican.dppo.difficulty import rates_of, write_tables
    from pelican.records import Phase

    started = time.perf_counter()
    pool = pl.read_parquet(folder / "pool.parquet")
    rates = rates_of(sorted(folder.glob("scores-*.parquet")), pool)
    parts["rates"] = time.perf_counter() - started
    write_tables(folder, rates, FilterConfig(), 0, loop=1, phase=Phase.RL, policy="policy")
    parts["tables"] = time.perf_counter() - started - parts["rates"]
    return len(rates)


def warm_up() -> None:
    """Both works once on a few samples: imports and starting threads are part of neither."""
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), 100)
        bare(Path(name))
        stage(Path(name), {})


def run(samples: int, times: int = 5) -> None:
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), samples)
        best: dict[str, dict[str, float]] = {}
        cpu = {"bare": float("inf"), "stage": float("inf")}
        for _ in range(times):
            for which in ("bare", "stage"):
                found = child("benchmarks.filtering", which, name)
                assert found["samples"] == samples
                cpu[which] = min(cpu[which], found["cpu"])
                if which not in best or found["seconds"] < best[which]["seconds"]:
                    best[which] = found
        ratio = best["stage"]["seconds"] / best["bare"]["seconds"]
        size = f"{samples:,} samples x {TRIES}"
        at_most("filter and ledger against bare scan and group", ratio, "x", 1.3, size)
        figure("the same in processor time", cpu["stage"] / cpu["bare"], "x", size)
        figure("bare scan and group", best["bare"]["seconds"], "s", size)
        figure("filter and ledger", best["stage"]["seconds"], "s", size)
        for part, what in (
            ("rates", "success rates and the pool's columns"),
            ("tables", "drawing, and encoding ledger, buffer and weak set"),
        ):
            figure(f"of this, {what}", best["stage"][part], "s", PARTS[part])
        at_most("memory of filter and ledger", best["stage"]["mb"] / 1000, "GB", 1.0, "resident")
        figure("memory of the bare scan", best["bare"]["mb"] / 1000, "GB", "resident")


def main() -> None:
    if len(sys.argv) == 3:
        folder, parts = Path(sys.argv[2]), dict[str, float]()
        warm_up()
        started, used = time.perf_counter(), time.process_time()
        rows = bare(folder) if sys.argv[1] == "bare" else stage(folder, parts)
        seconds, used = time.perf_counter() - started, time.process_time() - used
        found = {"seconds": seconds, "cpu": used, "mb": peak_mb(), "samples": rows, **parts}
        print(json.dumps(found))
        return
    run(int(sys.argv[1]) if len(sys.argv) == 2 else 500_000)


if __name__ == "__main__":
    main()

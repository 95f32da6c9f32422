"""A pool of 1.3 M samples: opened, shuffled, and the first batch of 64 read with its images."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.measure import at_most, child, figure, peak_mb

SHARD = 50_000
BOUND = (
    "a third decoding Parquet, a third checking columns, the rest ids that occur twice and imports;"
    " where the wall clock shows more, others had the cores"
)


def write(folder: Path, samples: int) -> None:
    """Shards with one small PNG to a sample."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    from pelican.data.tables import SAMPLES

    out = io.BytesIO()
    Image.new("RGB", (28, 28), (90, 120, 150)).save(out, "PNG")
    picture = [{"bytes": out.getvalue(), "path": None}]
    for start in range(0, samples, SHARD):
        numbers = range(start, min(samples, start + SHARD))
        rows = {
            "id": [f"sample-{i:08d}" for i in numbers],
            "media_kind": ["image"] * len(numbers),
            "images": [picture] * len(numbers),
            "times_s": [[0.0]] * len(numbers),
            "turns": [[{"role": "user", "text": f"How many cups of kind {i}?"}] for i in numbers],
            "family": ["counting"] * len(numbers),
            "dimension": ["quantitative_numerical"] * len(numbers),
            "answer": [json.dumps({"kind": "count", "value": i % 9}) for i in numbers],
            "source": ["made"] * len(numbers),
            "scene": [f"scene-{i // 4}" for i in numbers],
            "split": ["train"] * len(numbers),
            "benchmark": [""] * len(numbers),
            "chance": [0.1] * len(numbers),
        }
        table = pa.table({name: pa.array(rows[name], SAMPLES.field(name).type) for name in rows})
        table = table.cast(SAMPLES)
        path = folder / f"shard-{start // SHARD:05d}.parquet"
        pq.write_table(table, path, compression="zstd", row_group_size=1000)


def first_batch(folder: Path) -> dict[str, float]:
    from pelican.data.pool import read_index
    from pelican.data.tables import Quarantine

    started, began = time.perf_counter(), time.process_time()
    index = read_index(folder)
    opened, used = time.perf_counter() - started, time.process_time() - began
    order = np.random.default_rng((0, 1)).permutation(len(index.entries))
    wanted = [index.entries[i] for i in order[:64]]
    batch = list(index.load(wanted, max_pixels=1_003_520, quarantine=Quarantine()))
    assert len(batch) == 64
    return {"open": opened, "cpu": used, "all": time.perf_counter() - started, "mb": peak_mb()}


def run(samples: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), samples)
        found = child("benchmarks.index", "read", name)
    size = f"{samples:,} samples, one process, of this machine"
    at_most("open, shuffle and first batch", found["all"], "s", 10.0, size)
    figure("of this, opening", found["open"], "s", "every row is checked but for its images")
    figure("of this, processor time", found["cpu"], "s", BOUND)
    at_most("memory", found["mb"] / 1000, "GB", 1.0, "resident")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(first_batch(Path(sys.argv[2]))))
    else:
        run(int(sys.argv[1]) if len(sys.argv) == 2 else 1_300_000)

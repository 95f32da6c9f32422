"""Whatever happened to a Parquet file: its frame, or one error that names it."""

from __future__ import annotations

import random
from pathlib import Path

import polars as pl
import pytest

from pelican.data.frames import read_frame, whole
from pelican.errors import DamagedError


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("frames") / "scores-00000.parquet"
    rows = 200
    pl.DataFrame(
        {
            "sample_id": [f"sample-{n // 8}" for n in range(rows)],
            "index": [n % 8 for n in range(rows)],
            "reward": [n / rows for n in range(rows)],
            "success": [n % 3 == 0 for n in range(rows)],
            "reason": [f"no answer: {n}" if n % 5 else "" for n in range(rows)],
        }
    ).write_parquet(path)
    return path


def flipped(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_gives_a_frame_or_one_error(shard: Path, tmp_path: Path, seed: int) -> None:
    draw, data = random.Random(seed), shard.read_bytes()
    path, told = tmp_path / "flipped.parquet", 0
    for _ in range(60):
        path.write_bytes(flipped(data, draw.randrange(len(data)), draw.randrange(8)))
        try:
            read_frame(path).rows()
            with whole(path):
                pl.scan_parquet(path).filter(pl.col("index") < 2).collect()
        except DamagedError as error:
            told += 1
            assert str(path) in str(error)
    assert told


def test_a_panic_of_polars_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="shard is damaged"), whole(tmp_path / "shard"):
        raise pl.exceptions.PanicException("index out of bounds")


def test_of_several_files_the_broken_one_is_named(shard: Path, tmp_path: Path) -> None:
    cut = tmp_path / "scores-00001.parquet"
    cut.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(DamagedError, match="scores-00001"), whole(shard, cut):
        pl.scan_parquet([shard, cut]).collect()


def test_an_error_of_the_disk_stays_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_frame(tmp_path / "absent.parquet")

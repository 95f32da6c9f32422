"""Samples read when needed: the same ones, ahead of need, in bounded memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from pelican.data.lazy import LazySamples
from pelican.data.pool import PoolIndex, load_pool, read_index
from pelican.errors import UserInputError
from tests.data.factory import clip, sample, write_pool

PIXELS = 64 * 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pool(
        tmp_path, [*(sample(i) for i in range(20)), clip(20, (0.0, 2.0))], per_shard=8
    )


@pytest.fixture
def index(folder: Path) -> PoolIndex:
    return read_index(folder)


def test_they_are_those_of_the_pool_in_any_order(folder: Path, index: PoolIndex) -> None:
    lazy = LazySamples(index, index.entries, max_pixels=PIXELS)
    whole = load_pool(folder, max_pixels=PIXELS).samples
    assert len(lazy) == 21
    for number in (20, 0, 7, 8, 7, -1):
        assert lazy[number] == whole[number]
    assert lazy[3:6] == whole[3:6]
    with pytest.raises(IndexError):
        lazy[21]


def test_what_is_kept_is_bounded(index: PoolIndex) -> None:
    one = len(LazySamples(index, index.entries, max_pixels=PIXELS)[0].images[0])
    lazy = LazySamples(index, index.entries, max_pixels=PIXELS, cache_bytes=4 * one, ahead=3)
    for number in range(21):
        assert lazy[number].id == index.entries[number].id
        assert lazy.bytes <= 4 * one


def test_what_comes_next_is_read_before_it_is_asked_for(
    index: PoolIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    original = PoolIndex.load

    def load(self, entries, **options):  # type: ignore[no-untyped-def]
        entries = list(entries)
        asked.extend(entry.id for entry in entries)
        return original(self, entries, **options)

    monkeypatch.setattr(PoolIndex, "load", load)
    order = [5, 1, 9, 5, 2, 7]
    lazy = LazySamples(index, index.entries, max_pixels=PIXELS, order=order, ahead=2)
    assert lazy[5].id == "s00005"
    lazy._reader.submit(lambda: None).result()  # what was asked for before it is read by now
    assert sorted(asked) == ["s00001", "s00005", "s00009"]
    assert [lazy[i].id for i in order[1:]] == ["s00001", "s00009", "s00005", "s00002", "s00007"]
    assert len(asked) == 5  # each once: all of it fits


def test_a_sample_that_is_gone_is_named(index: PoolIndex, folder: Path) -> None:
    lazy = LazySamples(index, index.entries, max_pixels=PIXELS)
    for shard in index.shards:
        shard.unlink()
    with pytest.raises((UserInputError, OSError), match=r"shard|parquet"):
        lazy[0]

"""A pool of samples of unknown quality: an index of its usable rows, and their images on demand.

What is wrong with one row puts that row in quarantine; what is wrong with a file or the whole pool
is a UserInputError. See docs/data.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path

from pelican.data.corrections import NONE, Corrections
from pelican.data.entry import Entry
from pelican.data.images import ImageChecker, image_bytes
from pelican.data.indexing import check_shards
from pelican.data.quarantine import Quarantine, RowError
from pelican.data.rows import shard_rows
from pelican.data.tables import sample_from_row, shard_paths
from pelican.errors import UserInputError
from pelican.records import Sample


@dataclass(frozen=True)
class PoolIndex:
    """The usable rows of a pool in order; the images are still unread."""

    folder: Path
    shards: tuple[Path, ...]
    entries: Sequence[Entry]
    quarantine: Quarantine
    corrections: Corrections = NONE
    corrected: Mapping[str, int] = field(default_factory=dict)

    def within(self, horizon_s: float | None) -> list[Entry]:
        """The rows whose clip is not longer than `horizon_s`."""
        return [e for e in self.entries if horizon_s is None or e.span_s <= horizon_s]

    def load(
        self, entries: Iterable[Entry], *, max_pixels: int, quarantine: Quarantine
    ) -> Iterator[Sample]:
        """The samples of `entries` in the order of the pool; bad images go to `quarantine`."""
        wanted: dict[int, dict[int, Entry]] = {}
        for entry in entries:
            wanted.setdefault(entry.shard, {})[entry.row] = entry
        check = ImageChecker(max_pixels)
        for shard in sorted(wanted):
            path, rows = self.shards[shard], wanted[shard]
            for row, values in shard_rows(path, set(rows)):
                try:
                    if isinstance(values, RowError):
                        raise values
                    values = self.corrections.row(values)
                    images = [
                        {"bytes": check(image_bytes(image, self._root))}
                        for image in values["images"]
                    ]
                    sample = sample_from_row({**values, "images": images})
                except RowError as error:
                    quarantine.add(path.name, row, rows[row].id, error)
                else:
                    yield sample

    @property
    def _root(self) -> Path:
        return self.folder if self.folder.is_dir() else self.folder.parent


@dataclass
class Pool:
    """Samples that passed every check, and what did not."""

    samples: list[Sample]
    quarantine: Quarantine
    beyond_horizon: int = 0


def read_index(folder: Path, corrections: Corrections = NONE) -> PoolIndex:
    """Check every row but its images. Raises UserInputError for an unreadable or an empty pool.

    A person's corrections come first, so that a corrected row is checked as any other is.
    """
    shards = tuple(shard_paths(folder))
    checked = check_shards(shards, corrections)
    quarantine = Quarantine()
    for (shard, row), (name, error) in sorted(checked.faults.items(), key=itemgetter(0)):
        quarantine.add(shards[shard].name, row, name, error)
    if not checked.entries:
        raise UserInputError(no_sample(folder, quarantine))
    counts = corrections.counts(checked.known)
    return PoolIndex(folder, shards, checked.entries, quarantine, corrections, counts)


def load_pool(
    folder: Path,
    *,
    max_pixels: int,
    horizon_s: float | None = None,
    ids: Collection[str] | None = None,
    corrections: Corrections = NONE,
) -> Pool:
    """The samples below `folder`, or those of `ids`, checked, with images of at most `max_pixels`.

    A clip longer than the horizon is left out and counted, not cut: its answer may lie in the
    part that would be cut off.
    """
    index = read_index(folder, corrections)
    chosen = set(ids) if ids is not None else None
    entries = [e for e in index.entries if chosen is None or e.id in chosen]
    within = [e for e in entries if horizon_s is None or e.span_s <= horizon_s]
    quarantine = Quarantine(list(index.quarantine.rows))
    samples = list(index.load(within, max_pixels=max_pixels, quarantine=quarantine))
    beyond = len(entries) - len(within)
    if not samples and (chosen is None or chosen):
        raise UserInputError(no_sample(folder, quarantine, beyond))
    return Pool(samples, quarantine, beyond)


def no_sample(folder: Path, quarantine: Quarantine, beyond: int = 0) -> str:
    """The sentence about a pool without a usable sample."""
    why = [f"{count} x {code}" for code, count in quarantine.counts.items()]
    why += [f"{beyond} beyond the horizon"] if beyond else []
    detail = f" ({', '.join(why)}; first: {quarantine.rows[0]})" if quarantine.rows else ""
    if not detail:
        detail = f" ({why[0]})" if why else ""
    return f"pool {folder} holds no usable sample{detail}; check the recipe's data section"

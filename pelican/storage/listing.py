"""The files of one folder or s3:// prefix, by name and size, and parts of them without a download."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pelican.storage.objects import open_uri


@dataclass(frozen=True)
class Listing:
    """`sizes`: file name -> bytes; files of subfolders by their relative path."""

    where: str
    sizes: Mapping[str, int]
    _part: Callable[[str, int, int], bytes]

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Bytes of a file, all of them or `length` from `start`."""
        return self._part(name, start, self.sizes[name] if length is None else length)


def listing(where: str) -> Listing | None:
    """What lies at a path or an s3:// URI; None if that is no folder, nor a prefix with objects."""
    if "://" not in where:
        folder = Path(where)
        return _of_folder(folder) if folder.is_dir() else None
    from pelican.storage.s3 import S3Store

    store, key = open_uri(where)
    assert isinstance(store, S3Store)
    sizes = {name.removeprefix(f"{key}/"): size for name, size in store.sizes(key).items()}

    def part(name: str, start: int, length: int) -> bytes:
        return store.peek(f"{key}/{name}", start, length)

    return Listing(where, sizes, part) if sizes else None


def newest_shard(where: str) -> float:
    """Unix time at which the newest *.parquet at a path or an s3:// URI was written; 0 without one.

    Of objects it is the store's time: a copy on this machine is as old as its download.
    """
    if "://" not in where:
        place = Path(where)
        files = [place] if place.is_file() else place.rglob("*.parquet")
        return max((file.stat().st_mtime for file in files), default=0.0)
    store, key = open_uri(where)
    # A pool of one file is found in the folder that it is in.
    ages = store.ages(key) or store.ages(key.rpartition("/")[0])
    shards = (name for name in ages if name == key or name.startswith(f"{key}/"))
    return max((ages[name] for name in shards if name.endswith(".parquet")), default=0.0)


def _of_folder(folder: Path) -> Listing:
    files = [path for path in folder.rglob("*") if path.is_file()]
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}

    def part(name: str, start: int, length: int) -> bytes:
        with (folder / name).open("rb") as file:
            file.seek(start)
            return file.read(length)

    return Listing(str(folder), sizes, part)

"""Hugging Face checkpoints as they lie in a folder or below an s3:// prefix."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pelican.errors import UserInputError
from pelican.storage import open_uri

# What a folder or s3:// prefix must hold to be a Hugging Face checkpoint in whole safetensors.

INDEX = "model.safetensors.index.json"
# What transformers and vLLM read beside the weights; one of the names of a line is enough.
FILES = (
    ("config.json",),
    ("tokenizer_config.json",),
    ("tokenizer.json", "vocab.json"),
    ("preprocessor_config.json", "processor_config.json"),
)


def check_checkpoint(name: str, where: str) -> None:
    """Files, configuration and whole weights, read in parts. Raises UserInputError naming `name`."""
    folder = listing(where)
    if folder is None or not folder.sizes:
        raise UserInputError(
            f"{name}: there is no checkpoint at {where}; check the path, or make the small ones"
            " (`make base-model`)"
        )
    lacking = [" or ".join(names) for names in FILES if not folder.sizes.keys() & set(names)]
    weights = sorted(file for file in folder.sizes if file.endswith(".safetensors"))
    if not weights:
        lacking.append("*.safetensors (other formats are not read: they can carry code)")
    if lacking:
        raise UserInputError(
            f"{name}: the checkpoint {where} lacks {', '.join(lacking)}; copy it again"
        )
    try:
        json.loads(folder.read("config.json"))
    except ValueError:
        raise UserInputError(f"{name}: {where}/config.json is not JSON; copy it again") from None
    if INDEX in folder.sizes:
        try:
            named = set(json.loads(folder.read(INDEX))["weight_map"].values())
        except (ValueError, LookupError, TypeError, AttributeError):
            raise UserInputError(
                f"{name}: {where}/{INDEX} names no weights; copy it again"
            ) from None
        missing = sorted(named - set(folder.sizes))
        if missing:
            raise UserInputError(
                f"{name}: the checkpoint {where} lacks {missing[0]}; copy it again"
            )
    for file in weights:
        check_safetensors(name, folder, file)


def check_safetensors(name: str, folder: Listing, file: str) -> None:
    """The header is read and its longest offset compared with the file's size; no tensor is."""
    size = folder.sizes[file]
    try:
        (length,) = struct.unpack("<Q", folder.read(file, 0, 8))
        if length > size - 8:
            raise ValueError
        header = json.loads(folder.read(file, 8, length))
        end = max(
            (t["data_offsets"][1] for k, t in header.items() if k != "__metadata__"), default=0
        )
    except (struct.error, ValueError, KeyError, TypeError):
        raise UserInputError(
            f"{name}: {folder.where}/{file} is not a whole safetensors file; copy it again"
        ) from None
    if 8 + length + end != size:
        raise UserInputError(
            f"{name}: {folder.where}/{file} has {size} bytes but its header tells of"
            f" {8 + length + end}; copy it again"
        )


# The files of one folder or s3:// prefix, by name and size, and parts of them without a download.


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

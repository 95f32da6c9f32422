"""Hugging Face checkpoints in a folder or below an s3:// prefix: listed and checked, not downloaded."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pelican.base.parse import parse_json
from pelican.errors import UserInputError
from pelican.storage import open_uri
from pelican.storage.weights import header_fault, tensors, tokenizer_fault, weights_fault

TOKENIZER = "tokenizer.json"
# Read beside it by transformers and vLLM: each is an object in JSON.
OBJECTS = {
    *("tokenizer_config.json", "generation_config.json", "processor_config.json"),
    *("preprocessor_config.json", TOKENIZER, "vocab.json"),
}
INDEX = "model.safetensors.index.json"
# What transformers and vLLM read beside the weights; of the names on one line, one is enough.
FILES = (
    ("config.json",),
    ("tokenizer_config.json",),
    (TOKENIZER, "vocab.json"),
    ("preprocessor_config.json", "processor_config.json"),
)


def check_checkpoint(name: str, where: str) -> None:
    """Check that a checkpoint has its files, a configuration, and weights that are whole.

    Args:
        name: what the recipe calls it, for the sentence, such as `models.policy`.
        where: a folder or an s3:// URI; only headers of the weights are read.

    Raises:
        UserInputError: a file is missing or not whole.
    """
    folder = list_files(where)
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
    config = read_json(name, folder, "config.json")
    objects = {f: read_json(name, folder, f) for f in sorted(OBJECTS & folder.sizes.keys())}
    if INDEX in folder.sizes:
        try:
            shards = set(parse_json(folder.read(INDEX))["weight_map"].values())
        except (ValueError, LookupError, TypeError, AttributeError):
            raise UserInputError(
                f"{name}: {where}/{INDEX} names no weights; copy it again"
            ) from None
        missing = sorted(shards - set(folder.sizes))
        if missing:
            raise UserInputError(
                f"{name}: the checkpoint {where} lacks {missing[0]}; copy it again"
            )
    headers: dict[str, Any] = {}
    for file in weights:
        headers |= tensors(check_safetensors(name, folder, file))
    try:
        fault = weights_fault(config, headers)
        if fault is None and TOKENIZER in objects:
            fault = tokenizer_fault(config, objects[TOKENIZER])
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
        fault = f"config.json or {TOKENIZER} is none of its kind ({type(error).__name__}: {error})"
    if fault is not None:
        raise UserInputError(
            f"{name}: the checkpoint {where} does not fit together: {fault}; copy it again"
        )


def count_parameters(folder: Path) -> int:
    """The numbers in a checkpoint's weights, by their headers; a tied head counts once."""
    found = list_files(str(folder))
    if found is None:
        return 0
    files = {file for file in found.sizes if file.endswith(".safetensors")}
    # Others may lie beside those of the index, such as all weights once more in one file.
    if INDEX in found.sizes:
        files = set(read_json(folder.name, found, INDEX).get("weight_map", {}).values())
    headers: dict[str, Any] = {}
    for file in files:
        headers |= tensors(check_safetensors(folder.name, found, file))
    return sum(math.prod(tensor["shape"]) for tensor in headers.values())


def read_json(name: str, folder: Listing, file: str) -> dict[str, Any]:
    """A JSON object of a checkpoint.

    Args:
        name: what the recipe calls the checkpoint, for the sentence.
        folder: where the file lies.
        file: its name in that folder.

    Raises:
        UserInputError: it is not JSON, or no object.
    """
    try:
        found = parse_json(folder.read(file))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserInputError(f"{name}: {folder.where}/{file} is not JSON; copy it again")
    return found


def check_safetensors(name: str, folder: Listing, file: str) -> Mapping[str, Any]:
    """The header of a safetensors file that is as long as it says; no tensor is read.

    Args:
        name: what the recipe calls the checkpoint, for the sentence.
        folder: where the file lies.
        file: its name in that folder.

    Raises:
        UserInputError: it is shorter or longer, or its header can't be.
    """
    size = folder.sizes[file]
    try:
        (length,) = struct.unpack("<Q", folder.read(file, 0, 8))
        if length > size - 8:
            raise ValueError
        header: dict[str, Any] = parse_json(folder.read(file, 8, length))
        end = max((tensor["data_offsets"][1] for _, tensor in tensors(header)), default=0)
        fault = header_fault(header)
    except (struct.error, ValueError, LookupError, TypeError, AttributeError):
        raise UserInputError(
            f"{name}: {folder.where}/{file} is not a whole safetensors file; copy it again"
        ) from None
    if 8 + length + end != size:
        raise UserInputError(
            f"{name}: {folder.where}/{file} has {size} bytes but its header tells of"
            f" {8 + length + end}; copy it again"
        )
    if fault is not None:
        raise UserInputError(f"{name}: {folder.where}/{file}: {fault}; copy it again")
    return header


@dataclass(frozen=True)
class Listing:
    """The files of a folder or prefix, and parts of them without a download.

    `sizes` has the bytes of each file by its path relative to `where`.
    """

    where: str
    sizes: Mapping[str, int]
    _part: Callable[[str, int, int], bytes]

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """The bytes of a file, or `length` of them from `start`."""
        return self._part(name, start, self.sizes[name] if length is None else length)


def list_files(where: str) -> Listing | None:
    """The files at a path or an s3:// URI; None if that is no folder, nor a prefix with objects."""
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

    For objects this is the time that the store says, because a copy on this machine is only as old
    as its download.
    """
    if "://" not in where:
        place = Path(where)
        files = [place] if place.is_file() else place.rglob("*.parquet")
        return max((file.stat().st_mtime for file in files), default=0.0)
    store, key = open_uri(where)
    # A pool of one file is listed by its folder, because no object lies below it.
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

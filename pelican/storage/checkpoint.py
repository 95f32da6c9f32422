"""What a folder or s3:// prefix must hold to be a Hugging Face checkpoint in whole safetensors."""

from __future__ import annotations

import json
import struct

from pelican.errors import UserInputError
from pelican.storage.listing import Listing, listing

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

"""Checkpoints of a training are read as data: nothing that a pickle in them names is run.

They lie in the store, and who may write there shall not run code in a training. Trainer reads with
`weights_only`; torch's distributed checkpoint and DeepSpeed do not, and have no setting for it. So this
is what Pelican's training uses of torch 2.13 beyond its documented interface;
tests/training/test_private.py checks the names.
"""

from __future__ import annotations

import pickle
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import torch
from safetensors import safe_open
from torch.distributed.checkpoint import filesystem
from torch.distributed.checkpoint.utils import _create_file_view
from transformers.trainer_pt_utils import safe_globals

from pelican.base.parse import parse_json
from pelican.config import env
from pelican.training import deepspeed_private

# Of torch.load: what is True here is so for every caller, whatever it asks for.
_ENVIRONMENT = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "0"}
# What the index of a distributed checkpoint is made of.
METADATA = ".metadata"
_NAMES = {
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING", "TensorProperties"),
        *("TensorStorageMetadata", "ChunkStorageMetadata", "BytesStorageMetadata"),
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {
        "Size",
        *(name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype)),
    },
    "pathlib": {"PosixPath"},
}
# Trainer writes it and nobody reads it: the arguments come from the recipe.
_UNREAD = "training_args.bin"


@contextmanager
def only_data() -> Iterator[None]:
    """Whatever is unpickled from a file meanwhile, by any library, is data: names run nothing."""
    allowed = deepspeed_private.data_types() if "deepspeed" in sys.modules else []
    module: Any = filesystem
    theirs = module.pickle
    module.pickle = SimpleNamespace(**{**vars(pickle), "load": _load_index})
    try:
        with env.changed(_ENVIRONMENT), torch.serialization.safe_globals(allowed):
            yield
    finally:
        module.pickle = theirs


def find_fault(checkpoint: Path) -> str:
    """Why a training can't go on from this folder; empty if all of it is whole and plain data.

    Every file is opened as the training will open it, but numbers are not read, so that this takes
    seconds for a large policy, too.
    """
    with only_data(), safe_globals():  # Trainer allows numpy's for its generators' state, too
        for file in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
            check = _CHECKS.get(file.name) or _CHECKS.get(file.suffix)
            try:
                if check and file.name != _UNREAD:
                    check(file)
            except Exception as error:  # a damaged pickle can raise anything
                return f"{file.relative_to(checkpoint)} {_reason(error)}"
    return ""


def _check_index(file: Path) -> None:
    """The index of a distributed checkpoint, and all that it tells of."""
    with file.open("rb") as opened:
        index = _load_index(opened)
    names = {path.name for path in file.parent.iterdir()}
    for part in index.storage_data.values():
        if part.relative_path not in names:
            raise FileNotFoundError(f"names {part.relative_path!r}, which is not beside it")
    for part in index.storage_data.values():
        with (file.parent / part.relative_path).open("rb") as opened:
            view: Any = _create_file_view(opened, part.offset, part.length)
            torch.load(view, map_location="meta", weights_only=True)


def _check_part(file: Path) -> None:
    """One of the files that an index tells of."""
    if not (file.parent / METADATA).exists():
        raise FileNotFoundError(f"without its {METADATA}")


def _check_torch(file: Path) -> None:
    torch.load(file, map_location="meta", weights_only=True)


def _check_latest(file: Path) -> None:
    """DeepSpeed's note of the folder that it reads."""
    name = file.read_text().strip()
    if name not in {path.name for path in file.parent.iterdir()}:
        raise FileNotFoundError(f"names {name!r}, which is not beside it")


def _check_safetensors(file: Path) -> None:
    with safe_open(file, framework="pt") as opened:
        opened.keys()


def _check_json(file: Path) -> None:
    parse_json(file.read_bytes())


_CHECKS: dict[str, Callable[[Path], None]] = {
    METADATA: _check_index,  # also the end of the name of a rank's own, which torch may fall back to
    ".distcp": _check_part,
    "latest": _check_latest,
    ".json": _check_json,
    ".safetensors": _check_safetensors,
    **dict.fromkeys((".pt", ".pth", ".bin"), _check_torch),
}


class _Index(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _NAMES.get(module, ()):
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")
        return super().find_class(module, name)


def _load_index(file: IO[bytes]) -> Any:
    return _Index(file).load()


def _reason(error: Exception) -> str:
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    if named:
        return f"would run {named[1]}, which no checkpoint of a training does"
    return f"is damaged ({type(error).__name__}: {str(error).partition(chr(10))[0][:200]})"

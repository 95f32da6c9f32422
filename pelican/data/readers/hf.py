"""Hugging Face `datasets`, by name, by a folder that `save_to_disk` wrote, or by a data set's folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pelican.data.quarantine import RowError
from pelican.data.readers.base import Found, Options, Reader, Unread, record_key
from pelican.data.readers.columns import table_records
from pelican.data.readers.source import Source
from pelican.errors import UserInputError


class HuggingFace(Reader):
    name = "hf"
    about = "a Hugging Face data set by name (--reader hf), or a folder that save_to_disk wrote"

    def sniff(self, source: Source, options: Options) -> float:
        here = source.path
        if here.is_dir() and (
            (here / "dataset_dict.json").exists() or (here / "state.json").exists()
        ):
            return 0.95
        return 0.0

    def read(self, source: Source, options: Options) -> Iterator[Found]:
        for split, rows in load(source.where, options).items():
            number = 0
            try:
                for row in rows:
                    number += 1
                    place = f"{split}, row {number}"
                    row.setdefault("split", split)
                    yield from table_records(row, place, options)
            except Exception as error:  # whatever a decoder of `datasets` raises ends this split
                why = f"not readable after row {number} ({' '.join(str(error).split())[:200]})"
                yield Unread(split, record_key([split, number]), "", RowError("file", why))


def load(where: str, options: Options) -> dict[str, Any]:
    """Split -> rows, streamed; images and videos stay encoded. No code of the data set is run."""
    try:
        import datasets
    except ImportError:
        raise UserInputError(
            "the reader hf needs the package datasets: `uv pip install -e '.[train]'`"
        ) from None
    datasets.disable_progress_bars()
    path = Path(where)
    try:
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            found = datasets.load_from_disk(where)
        else:
            found = datasets.load_dataset(
                where, options.config or None, split=options.split or None, streaming=True
            )
    except Exception as error:  # its errors are of many kinds: network, hub, parsers
        reason = " ".join(str(error).split())[:300]
        raise UserInputError(f"`datasets` can't open {where!r} ({reason})") from None
    if not isinstance(found, dict):
        found = {str(getattr(found, "split", None) or "train"): found}
    if options.split and options.split in found:
        found = {options.split: found[options.split]}
    return {str(name): _encoded(rows, datasets) for name, rows in found.items()}


def _encoded(rows: Any, datasets: Any) -> Any:
    """Without decoding: a broken image is then one row's fault, and nothing is encoded twice."""
    for name, feature in (rows.features or {}).items():
        kinds = (datasets.Image, datasets.Video)
        inner = getattr(feature, "feature", None)
        if isinstance(feature, kinds):
            rows = rows.cast_column(name, type(feature)(decode=False))
        elif isinstance(inner, kinds):
            rows = rows.cast_column(name, type(feature)(type(inner)(decode=False)))
    return rows


def card_license(folder: Path) -> str:
    """The licence that a data set's README.md names in its head, "" if none."""
    try:
        text = (folder / "README.md").read_text(errors="replace")[:20_000]
    except OSError:
        text = ""
    if text.startswith("---"):
        for line in text.split("---", 2)[1].splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("license", "licence"):
                return value.strip().strip("\"'")
    try:
        info = json.loads((folder / "dataset_info.json").read_text())
        return str(info.get("license") or "")
    except (OSError, ValueError, AttributeError):
        return ""


READER = HuggingFace()

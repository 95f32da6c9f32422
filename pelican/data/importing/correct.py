"""Labels that a person corrected, read back into a new version."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pelican.data.importing.card import counts_of, write_card, write_labels
from pelican.data.tables import open_parquet, write_table
from pelican.data.versions import (
    QUARANTINE,
    Shard,
    Version,
    commit,
    current,
    link_or_copy,
    locked,
    shard_of,
)
from pelican.errors import UserInputError
from pelican.records import Dimension, Family
from pelican.rewards.score import FAMILIES

PERSON = "corrected"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a row's label shall be; an empty `family` or `dimension` stays as it is."""

    family: str
    dimension: str
    rule: str = PERSON
    confidence: float = 1.0


def correct_labels(pool: Path, labels: Path) -> tuple[Version, int]:
    """Apply a CSV with `id` and `family` or `dimension`; empty fields change nothing.

    The version that the pool is now, and how many rows changed; without any it stays as it was.

    Raises UserInputError that names the line. Nothing is written unless every line is right.
    """
    return relabel(pool, _read(labels), "{} rows were corrected by hand", str(labels))


def relabel(
    pool: Path, wanted: dict[str, Wanted], note: str, where: str = ""
) -> tuple[Version, int]:
    """Give the rows of `wanted`, by id, new labels; see `correct_labels`. `note`: for the version."""
    with locked(pool) as folder:
        before = current(pool)
        if before is None:
            raise UserInputError(f"there is no imported pool at {pool}")
        staged = folder / ".new"
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        shards, changed = [], 0
        left = dict(wanted)
        for shard in before.shards:
            number, found = _shard(pool / shard.name, staged / shard.name, left, shard)
            shards.append(found)
            changed += number
        if left:
            raise UserInputError(f"{where}: id {next(iter(left))!r} is not in {pool}")
        if not changed:
            shutil.rmtree(staged)
            return before, 0
        if (pool / QUARANTINE).exists():
            link_or_copy(pool / QUARANTINE, staged / QUARANTINE)
        version = before.model_copy(
            update={
                "parent": before.id,
                "made": datetime.now(UTC).isoformat(timespec="seconds"),
                "shards": tuple(shards),
                "counts": counts_of([staged / shard.name for shard in shards]),
                "notes": (*before.notes, note.format(changed)),
            }
        )
        write_labels(staged, version)
        write_card(staged, pool.name, version)
        return commit(pool, staged, version), changed


def _read(labels: Path) -> dict[str, Wanted]:
    """By id; family and dimension are "" where nothing is said."""
    found: dict[str, Wanted] = {}
    try:
        with labels.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if "id" not in (rows.fieldnames or ()):
                raise UserInputError(f"{labels} has no column id; copy labels.csv of the pool")
            for line, row in enumerate(rows, 2):
                family = (row.get("family") or "").strip()
                dimension = (row.get("dimension") or "").strip()
                for kind, value in ((Family, family), (Dimension, dimension)):
                    if value and value not in set(kind):
                        raise UserInputError(
                            f"{labels}, line {line}: {value!r} is no {kind.__name__.lower()};"
                            f" there are {', '.join(kind)}"
                        )
                found[row["id"]] = Wanted(family, dimension)
    except OSError as error:
        raise UserInputError(f"{labels} can't be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserInputError(
            f"{labels} can't be read as CSV ({error}); save it as CSV in UTF-8"
        ) from None
    return found


def _shard(source: Path, target: Path, left: dict[str, Wanted], shard: Shard) -> tuple[int, Shard]:
    """Rows that changed, and the shard: the same file under a second name if none did.

    Takes what it applied out of `left`.
    """
    file = open_parquet(source)
    labels = file.read(columns=["id", "family", "dimension", "answer", "rule"]).to_pylist()
    changed: dict[int, dict[str, Any]] = {}
    for number, row in enumerate(labels):
        wanted = left.pop(row["id"], None)
        if wanted is None:
            continue
        new = {
            "family": wanted.family or row["family"],
            "dimension": wanted.dimension or row["dimension"],
        }
        same = new == {"family": row["family"], "dimension": row["dimension"]}
        if same and wanted.rule in (PERSON, row["rule"]):  # a copied line says nothing new
            continue
        new |= {"rule": wanted.rule, "confidence": wanted.confidence}
        kind = json.loads(row["answer"])["kind"]
        if kind not in FAMILIES[Family(new["family"])]:
            raise UserInputError(
                f"{row['id']!r} can't be of family {new['family']}: it has no reward for answers of"
                f" kind {kind}"
            )
        changed[number] = new
    if not changed:
        link_or_copy(source, target)
        return 0, shard
    table = pq.read_table(source)
    for name in ("family", "dimension", "rule", "confidence"):
        values = table.column(name).to_pylist()
        for number, new in changed.items():
            values[number] = new[name]
        at = table.schema.get_field_index(name)
        table = table.set_column(
            at, table.schema.field(name), pa.array(values, table.schema.field(name).type)
        )
    write_table(target, table)
    return len(changed), shard_of(target, shard.rows)

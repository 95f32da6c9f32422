"""What an import writes: shards of rows, the data card, the labels."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pelican.base.cells import no_formula
from pelican.base.files import resolve_below
from pelican.base.parse import parse_json
from pelican.data.importing.convert import Good
from pelican.data.tables import SAMPLES, open_parquet, sample_row, write_table
from pelican.data.versions import CARD, LABELS, Version

# The data card of a version, its counts, and the labels that a person may correct.

COUNTED = ("family", "dimension", "split", "source", "license", "media_kind")
LABEL_COLUMNS = ("id", "question", "family", "dimension", "confidence", "rule")
SHOWN = 300  # characters of a question in the labels


def counts_of(shards: Sequence[Path]) -> dict[str, dict[str, int]]:
    """Column -> value -> rows; also of the kinds of answers."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in (*COUNTED, "answer")}
    for row in read_columns(shards, [*COUNTED, "answer"]):
        for name in COUNTED:
            counts[name][row[name] or ""] += 1
        counts["answer"][parse_json(row["answer"])["kind"]] += 1
    return {name: dict(sorted(found.items())) for name, found in counts.items()}


def write_labels(folder: Path, version: Version) -> None:
    """What every row was taken for, the least sure first within a shard's thousand rows.

    A person copies the file, changes `family` or `dimension`, and gives it to
    `pelican data correct`.
    """
    with (folder / LABELS).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(LABEL_COLUMNS)
        for shard in version.shards:
            rows = list(
                read_columns(
                    [resolve_below(folder, shard.name)],
                    ["id", "turns", "family", "dimension", "confidence", "rule"],
                )
            )
            for row in sorted(rows, key=lambda row: (row["confidence"] or 0.0, row["id"])):
                question = row["turns"][-1]["text"][:SHOWN]
                sure = f"{row['confidence'] or 0:.2f}"
                cells = [row["id"], question, row["family"], row["dimension"], sure, row["rule"]]
                writer.writerow([no_formula(cell or "") for cell in cells])


def write_card(folder: Path, name: str, version: Version) -> None:
    """README.md in Hugging Face's form, so that `datasets` and a hub open the folder as it is."""
    licenses = [text for text in version.counts["license"] if text]
    head = ["---", f"pretty_name: {json.dumps(name)}"]
    if len(licenses) == 1:
        head.append(f"license: {json.dumps(licenses[0])}")
    head += ["configs:", "- config_name: default", "  data_files: part-*.parquet", "---"]
    lines = [*head, "", f"# {name}", ""]
    lines += [
        f"{version.rows} questions in {len(version.shards)} shards; {version.quarantined} rows were"
        " left out (`quarantine.jsonl`). The columns are those of Pelican's docs/data.md; `license`,"
        " `origin`, `key`, `rule` and `confidence` say where a row came from and how its family and"
        " dimension were found.",
        "",
        "## Sources",
        "",
        "| source | reader | rows | left out |",
        "|---|---|---|---|",
    ]
    for source in version.sources:
        left = ", ".join(f"{n} {code}" for code, n in source.quarantined.items()) or "none"
        # The path of the machine it was read on says nothing to others, its name does.
        lines.append(f"| {Path(source.path).name} | {source.reader} | {source.rows} | {left} |")
    lines += ["", "## Counts", ""]
    for column, values in version.counts.items():
        listed = ", ".join(f"{value or 'unknown'} {n}" for value, n in values.items())
        lines.append(f"- {column}: {listed}")
    # Folders of the machine it was read on stay in version.json.
    shared = {k: v for k, v in version.settings.items() if k not in ("mapping", "media")}
    lines += ["", "## Settings", "", "```json", json.dumps(shared, indent=1), "```", ""]
    if version.notes:
        lines += ["## Notes", "", *(f"- {note}" for note in version.notes), ""]
    (folder / CARD).write_text("\n".join(lines), encoding="utf-8")


# Shards of an imported pool: the columns of docs/data.md, and where each row came from.

# `origin`: where the row stands in its source; `key`: digest of the row there; `rule`,
# `confidence`: how its family and dimension were found.
EXTRAS = (
    ("license", pa.string()),
    ("origin", pa.string()),
    ("key", pa.string()),
    ("rule", pa.string()),
    ("confidence", pa.float64()),
)
MAX_ROWS = 1000  # of a shard
MAX_BYTES = 48 << 20  # of a shard's media, which bounds the memory of writing it


def _schema() -> pa.Schema:
    info = parse_json(SAMPLES.metadata[b"huggingface"])
    for name, kind in EXTRAS:
        dtype = "float64" if pa.types.is_floating(kind) else "string"
        info["info"]["features"][name] = {"dtype": dtype, "_type": "Value"}
    fields = [*SAMPLES, *(pa.field(name, kind) for name, kind in EXTRAS)]
    return pa.schema(fields, metadata={"huggingface": json.dumps(info)})


IMPORTED = _schema()


def write_shard(path: Path, rows: Sequence[Good]) -> None:
    """Under a temporary name first."""
    table = [
        {
            **sample_row(row.sample),
            "license": row.license,
            "origin": row.place,
            "key": row.key,
            "rule": row.label.rule,
            "confidence": row.label.confidence,
        }
        for row in rows
    ]
    write_table(path, pa.Table.from_pylist(table, schema=IMPORTED))


def read_columns(paths: Sequence[Path], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Some columns of every row; those a shard lacks are None."""
    for path in paths:
        file = open_parquet(path)
        there = [name for name in names if name in file.schema_arrow.names]
        missing = dict.fromkeys(set(names) - set(there))
        for batch in file.iter_batches(batch_size=1024, columns=there):
            for row in batch.to_pylist():
                yield {**missing, **row}

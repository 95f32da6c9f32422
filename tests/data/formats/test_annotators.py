"""Tables whose column holds one answer of each annotator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pelican.data.formats import find_reader
from pelican.data.formats.base import Options, Record, Reference, Source
from tests.data.factory import picture


@pytest.mark.parametrize(
    ("columns", "options", "expected"),
    [
        ({"answers": ["red", "crimson"]}, {}, Reference(["red", "crimson"], "annotators", index=True)),
        ({"answers": [{"answer": "red", "answer_id": 1}]}, {}, Reference(["red"], "annotators", index=True)),
        ({"answers": {"text": ["red"], "answer_start": [3]}}, {}, Reference(["red"], "annotators", index=True)),
        ({"answer": ["red", "red"]}, {}, Reference(["red", "red"], index=True)),
        ({"answer": "red", "answers": ["red", "crimson"]}, {}, Reference("red", aliases=("red", "crimson"), index=True)),
        ({"answer": ["red", "crimson"]}, {"answers": "answer"}, Reference(["red", "crimson"], "annotators", index=True)),
        ({"said": ["red"]}, {"answers": "said"}, Reference(["red"], "annotators", index=True)),
    ],
)  # fmt: skip
def test_one_answer_of_each_annotator(
    tmp_path: Path, columns: dict[str, Any], options: dict[str, str], expected: Reference
) -> None:
    row = {"image": {"bytes": picture(1), "path": None}, "question": "What colour?", **columns}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "train.parquet")
    (record,) = find_reader("parquet").read(Source(str(tmp_path)), Options(columns=options))
    assert isinstance(record, Record), record
    assert record.reference == expected

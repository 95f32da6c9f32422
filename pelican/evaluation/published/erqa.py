"""ERQA: embodied reasoning over one or several images (Gemini Robotics, arXiv 2503.20020).

The original's eval_harness.py compares the reply without dots, trimmed, in small letters.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, message_factory, text_format
from google.protobuf.message import DecodeError

from pelican.errors import UserInputError
from pelican.evaluation.published.base import (
    Benchmark,
    Context,
    Grade,
    Question,
    Reply,
    Row,
    graded_as,
    over_questions,
)
from pelican.evaluation.published.load import (
    files_below,
    pictures,
    read_files,
    text,
    without_placeholders,
)
from pelican.records import Dimension, Family


def _rows(folder: Path) -> Iterator[tuple[str, Row]]:
    patterns = ("*.tfrecord", "data/*.tfrecord", "*.parquet", "data/*.parquet")
    files = files_below(folder, patterns, "erqa.tfrecord or *.parquet")
    if files[0].suffix == ".parquet":
        yield from read_files(files, folder)
        return
    for path in files:
        try:
            for number, example in enumerate(read_examples(path)):
                yield path.relative_to(folder).as_posix(), _row(number, example)
        except (ValueError, OSError) as error:
            raise UserInputError(f"{path} can't be read ({error}); download it again") from None


def _row(number: int, example: dict[str, list[bytes]]) -> Row:
    """One example of the original file, as the Parquet copy has it."""
    row: Row = {"question_id": str(number), "images": example.get("image/encoded", [])}
    for name in ("question", "answer", "question_type"):
        values = example.get(name)
        row[name] = values[0].decode("utf-8", "replace") if values else None
    return row


def _question(row: Row, folder: Path) -> Question:
    name = text(row, "question_id")
    return Question(
        id=f"erqa-{name}",
        prompt=without_placeholders(text(row, "question")),
        media=pictures(row.get("images") or ()),
        truth=text(row, "answer").strip(),
        group=text(row, "question_type"),
        scene=name,
        chance=0.25,
    )


def _grade(question: Question, reply: Reply, context: Context) -> Grade:
    said = reply.text.replace(".", "").strip().lower()
    return graded_as(said == question.truth.lower(), said[:200])


BENCHMARK = Benchmark(
    name="erqa",
    title="ERQA",
    suite="embodied",
    family=Family.PLANNING,
    dimension=Dimension.DECISION_PLANNING,
    source="arXiv 2503.20020; embodiedreasoning/ERQA, eval_harness.py; Parquet of FlagEval/ERQA",
    layout="data/erqa.tfrecord, or *.parquet with question, images, answer, question_type",
    metric="exact match, dots and case aside",
    rows=_rows,
    question=_question,
    grade=_grade,
    scores=over_questions,
)

# TFRecord files, read without TensorFlow: the framing by hand (no checksum is verified), the messages
# by protobuf, which comes with kfp. Source: TensorFlow's guide "TFRecord and tf.train.Example".

_HEAD, _TAIL = 12, 4  # bytes: a length and its checksum before the data, the data's checksum after
# The part of tensorflow/core/example/example.proto that is read. A map is a list of its entries.
_SCHEMA = """
name: "example.proto" package: "erqa"
message_type { name: "Bytes" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type { name: "Feature"
  field { name: "bytes" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: "Bytes" } }
message_type { name: "Entry"
  field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
  field { name: "value" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: "Feature" } }
message_type { name: "Features"
  field { name: "feature" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: "Entry" } }
message_type { name: "Example"
  field { name: "features" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: "Features" } }
"""


@cache
def _example_class() -> Any:
    schema = text_format.Parse(_SCHEMA, descriptor_pb2.FileDescriptorProto())
    return message_factory.GetMessages([schema])["erqa.Example"]


def read_examples(path: Path) -> Iterator[dict[str, list[bytes]]]:
    """The features of bytes of each `tf.train.Example`; numbers are left out.

    Raises:
        ValueError: The file is cut off, or is no TFRecord file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        while head := file.read(_HEAD):
            if len(head) < _HEAD:
                raise ValueError("a record is cut off")
            (length,) = struct.unpack("<Q", head[:8])
            if length > size - file.tell() - _TAIL:
                raise ValueError("a record is longer than its file")
            try:
                example = _example_class().FromString(file.read(length))
            except DecodeError as error:
                raise ValueError(f"a record is no tf.train.Example: {error}") from None
            yield {entry.key: list(entry.value.bytes.value) for entry in example.features.feature}
            file.read(_TAIL)

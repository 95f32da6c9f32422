"""ERQA: embodied reasoning over one or several images (Gemini Robotics, arXiv 2503.20020).

The original's eval_harness.py compares the reply without dots, trimmed, in small letters.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

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


def _row(number: int, example: dict[str, Feature]) -> Row:
    """One example of the original file, as the Parquet copy has it."""

    def words(name: str) -> str | None:
        value = next(iter(example.get(name) or ()), None)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else None

    return {
        "question_id": str(number),
        "question": words("question"),
        "answer": words("answer"),
        "question_type": words("question_type"),
        "images": list(example.get("image/encoded") or ()),
    }


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

# TFRecord files of `tf.train.Example`, read without TensorFlow.
#
# The record framing is that of TensorFlow's guide "TFRecord and tf.train.Example"; the message is read
# by protobuf's wire format. Checksums are not verified.

Feature = list[bytes] | list[int]
_HEAD, _TAIL = 12, 4  # bytes: a length and its checksum before the data, the data's checksum after


def read_examples(path: Path) -> Iterator[dict[str, Feature]]:
    """Each example's features: lists of bytes or of whole numbers; floats are left out.

    Raises ValueError where the file is cut off or is none.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        while head := file.read(_HEAD):
            if len(head) < _HEAD:
                raise ValueError("a record is cut off")
            (length,) = struct.unpack("<Q", head[:8])
            if length > size - file.tell() - _TAIL:
                raise ValueError("a record is longer than its file")
            yield _example(file.read(length))
            file.read(_TAIL)


def _example(data: bytes) -> dict[str, Feature]:
    """Example {1: Features {1: map entry {1: name, 2: Feature}}}."""
    found: dict[str, Feature] = {}
    for features in _messages(data, 1):
        for entry in _messages(features, 1):
            fields = {number: value for number, value in _fields(entry)}
            name, feature = fields.get(1), fields.get(2)
            if isinstance(name, bytes) and isinstance(feature, bytes):
                found[name.decode()] = _feature(feature)
    return found


def _feature(data: bytes) -> Feature:
    """Feature {1: bytes list {1: bytes …}, 3: list of numbers {1: packed or single varints}}."""
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            return list(_messages(value, 1))
        if number == 3 and isinstance(value, bytes):
            numbers: list[int] = []
            for _, part in _fields(value):
                numbers += [part] if isinstance(part, int) else list(_varints(part))
            return numbers
    return []


def _messages(data: bytes, wanted: int) -> Iterator[bytes]:
    for number, value in _fields(data):
        if number == wanted and isinstance(value, bytes):
            yield value


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Field numbers and values of a message: varints as numbers, the rest as bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            length, at = _varint(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind} is not that of an Example")
        if at + length > len(data):
            raise ValueError("a field is longer than its message")
        yield key >> 3, data[at : at + length]
        at += length


def _varints(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("a number is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number is too long")

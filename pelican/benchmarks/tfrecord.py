"""TFRecord files of `tf.train.Example`, read without TensorFlow.

The record framing is that of TensorFlow's guide "TFRecord and tf.train.Example"; the message is read
by protobuf's wire format. Checksums are not verified.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

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

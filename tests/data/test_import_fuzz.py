"""Two hundred broken inputs out of good ones, seeded: each is counted, none ends the import."""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from pelican.data.quarantine import CODES
from tests.data.readers.world import draw, image, imported, mask, video

Row = dict[str, Any]
Change = Callable[[random.Random, Row, Path], Row | str]
BROKEN = 200
TEXTS = ("", " ", "\x00", "\ud800", "<|im_start|>", "A" * 30_000, "<image>" * 9, "NaN", "\u202e")
VALUES = (None, True, -1, 10**40, float("nan"), float("inf"), [], {}, [[]], [None], "\ud800", "x")
PATHS = (
    "../../etc/passwd", "/etc/passwd", "/proc/self/mem", "/dev/zero", "images", "images/link.jpg",
    "images/loop.jpg", "a" * 5000, "images/\x00.jpg", "https://example.org/a.jpg", "", "~/a.jpg",
    "images/outside.jpg", "file:///etc/passwd", "images/0.jpg/x",
)  # fmt: skip


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that claims a huge frame, with a valid header."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1 << 20), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def damaged(draws: random.Random, data: bytes) -> bytes:
    """Cut, with bytes turned, doubled, or headed by something else."""
    how = draws.randrange(4)
    if how == 0:
        return data[: draws.randrange(len(data))]
    if how == 1:
        many = bytearray(data)
        for _ in range(draws.randrange(1, 200)):
            many[draws.randrange(len(many))] = draws.randrange(256)
        return bytes(many)
    if how == 2:
        return data[len(data) // 2 :] + data
    return (
        draws.choice([b"GIF89a", b"\xff\xd8", b"RIFF0000WEBP", b"<svg>", b"PK\x03\x04"]) + data[9:]
    )


def media(draws: random.Random, row: Row, root: Path) -> Row:
    """The row's image or video, damaged."""
    kind = "video" if draws.random() < 0.4 else "image"
    name = f"{kind}s/b{draws.randrange(1 << 30)}.{'mp4' if kind == 'video' else 'jpg'}"
    good = (root / ("videos/0.mp4" if kind == "video" else "images/0.jpg")).read_bytes()
    sizes = [(60_000, 60_000), (1 << 31, 1), (1, 1), (3, 900), (2000, 2)]
    huge = kind == "image" and draws.random() < 0.3
    data = bomb(*draws.choice(sizes)) if huge else damaged(draws, good)
    (root / name).write_bytes(data)
    row.pop("image", None)
    return {**row, kind: name}


def field(draws: random.Random, row: Row, root: Path) -> Row:
    """One field of another type, gone, or under another name."""
    name = draws.choice(sorted(row))
    if draws.random() < 0.2:
        return {k: v for k, v in row.items() if k != name}
    return {**row, name: draws.choice(VALUES)}


def turn(draws: random.Random, row: Row, root: Path) -> Row:
    turns = [dict(t) for t in row["conversations"]]
    turns[draws.randrange(2)][draws.choice(["from", "value"])] = draws.choice([*VALUES, *TEXTS])
    return {**row, "conversations": draws.sample(turns, draws.randrange(1, 3))}


def answer(draws: random.Random, row: Row, root: Path) -> Row:
    said = draws.choice(
        ["[(nan, 0.5)]", "[(inf, 1)]", "[(-1, 2)]", "[(1e999, 0)]", "[[1, 2, 3]]", "[(0.5, 0.5, 0.5)]",
         "9" * 5000, "Z", "\\boxed{", "<answer></answer>", "<answer>A</answer><answer>B</answer>",
         "[" * 500, "1e400 m", "- 1", "0.3.4", "[(0.1, 0.2), (0.3, 0.4, 0.5, 0.6)]", "٣"]
    )  # fmt: skip
    return {**row, "conversations": [row["conversations"][0], {"from": "gpt", "value": said}]}


def path(draws: random.Random, row: Row, root: Path) -> Row:
    return {**row, "image": draws.choice(PATHS)}


def line(draws: random.Random, row: Row, root: Path) -> str:
    """Text that is no JSON, or of no object."""
    whole = json.dumps(row)
    return draws.choice(
        [whole[: draws.randrange(1, len(whole))], "[" * 3000, "null", "3", '"x"', whole + "}", "{]",
         whole.replace('"', "'"), whole.encode()[:40].decode() + "\udcff\udcfe", "9" * 6000]
    )  # fmt: skip


CHANGES: tuple[Change, ...] = (media, media, field, turn, answer, path, line)


def good(number: int) -> Row:
    return {
        "id": f"r{number}",
        "image": f"images/{number % 5}.jpg",
        "conversations": [
            {"from": "human", "value": f"<image>\nHow many cups stand at place {number}?"},
            {"from": "gpt", "value": str(number % 4)},
        ],
    }


def test_two_hundred_broken_inputs_are_counted(tmp_path: Path) -> None:
    draws, root = random.Random(7), tmp_path / "fuzz"
    for i in range(5):
        image(root / "images" / f"{i}.jpg", seed=i)
    video(root / "videos" / "0.mp4", 3.0)
    mask(root / "images" / "mask.png", (0, 0, 9, 9))
    (root / "images" / "outside.jpg").symlink_to("/etc/hostname")
    (root / "images" / "loop.jpg").symlink_to(root / "images" / "loop.jpg")
    (root / "images" / "link.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    draw(1).save(tmp_path / "elsewhere.jpg")
    Image.new("RGB", (9, 9)).save(root / "images" / "small.bmp")
    lines = [json.dumps(good(i)) for i in range(20)]
    for number in range(BROKEN):
        change = CHANGES[number % len(CHANGES)]
        found = change(draws, good(1000 + number), root)
        lines.append(found if isinstance(found, str) else json.dumps(found))
    (root / "train.jsonl").write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    outcome = imported(root, tmp_path / "pool", reader="llava")
    rows = [json.loads(text) for text in (outcome.pool / "quarantine.jsonl").open()]
    assert len(outcome.samples) + len(rows) == 20 + BROKEN
    assert {f"fuzz/r{i}" for i in range(20)} <= set(outcome.samples)
    assert {row["code"] for row in rows} <= set(CODES)
    assert all(row["reason"] and "Traceback" not in row["reason"] for row in rows)
    # What is left out unexplained would say the name of an exception.
    assert not [row["reason"] for row in rows if "Error:" in row["reason"]]
    assert len(rows) > BROKEN // 2

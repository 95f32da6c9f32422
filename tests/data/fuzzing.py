"""Broken inputs out of good ones, seeded: cut, swapped, retyped, hostile rows, media and files."""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.data.formats.world import draw, image, mask, video

Row = dict[str, Any]
Change = Callable[[random.Random, Row, Path], Row | str]
TEXTS = ("", " ", "\x00", "\ud800", "<|im_start|>", "A" * 30_000, "<image>" * 9, "NaN", "\u202e")
VALUES: tuple[object, ...] = (
    None,
    True,
    -1,
    10**40,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    [None],
    "\ud800",
    "x",
)
PATHS = (
    "../../etc/passwd", "/etc/passwd", "/proc/self/mem", "/dev/zero", "images", "images/link.jpg",
    "images/loop.jpg", "a" * 5000, "images/\x00.jpg", "https://example.org/a.jpg", "", "~/a.jpg",
    "images/outside.jpg", "file:///etc/passwd", "images/0.jpg/x",
)  # fmt: skip
PLAYLISTS = (
    "ffconcat version 1.0\nfile 0.mp4\n", "ffconcat version 1.0\nfile /etc/passwd\n",
    "#EXTM3U\n#EXTINF:3,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n", "<svg></svg>", "",
)  # fmt: skip


@cache
@cache
def bomb(width: int, height: int, rows: int = 1) -> bytes:
    """A small PNG that claims a huge frame and holds so many rows of it, in black."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    row = bytes(1 + 3 * min(width, 1 << 20))
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(row) + packer.flush(
        zlib.Z_FULL_FLUSH
    )  # stands for itself, so it repeats
    checksum = struct.pack(">I", (len(row) * rows % 65521) << 16 | 1)  # Adler-32 of zeros
    data = b"\x78\xda" + block * rows + b"\x03\x00" + checksum
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def video_bomb(path: Path, frame: bytes) -> Path:
    """A video of three frames whose header says 64 x 48, whatever `frame` is."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
        for number in range(3):
            packet = av.Packet(frame)
            packet.stream, packet.pts, packet.dts = stream, number, number
            packet.time_base = Fraction(1, 1)
            file.mux(packet)
    return path


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
    """The row's image or video, damaged, huge, tiny, or another file under its name."""
    kind = "video" if draws.random() < 0.4 else "image"
    name = f"{kind}s/b{draws.randrange(1 << 30)}.{'mp4' if kind == 'video' else 'jpg'}"
    good = (root / ("videos/0.mp4" if kind == "video" else "images/0.jpg")).read_bytes()
    path, special = root / name, draws.random() < 0.4
    if special and kind == "image":
        size = draws.choice([(60_000, 60_000), (1 << 31, 1), (1, 1), (3, 900), (2000, 2)])
        whole = draws.random() < 0.3
        path.write_bytes(bomb(16_000, 16_000, 16_000) if whole else bomb(*size))
    elif special and draws.random() < 0.5:
        path = path.with_suffix(".mov")
        video_bomb(path, bomb(16_000, 16_000, 16_000))
    elif special:
        path.write_text(draws.choice(PLAYLISTS))
    else:
        path.write_bytes(damaged(draws, good))
    row.pop("image", None)
    return {**row, kind: path.relative_to(root).as_posix()}


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


def conversations(root: Path, fine: int, broken: int, seed: int = 7) -> None:
    """LLaVA's style: `fine` good rows with ids r0, r1, …, then `broken` ones."""
    draws = random.Random(seed)
    for i in range(5):
        image(root / "images" / f"{i}.jpg", seed=i)
    video(root / "videos" / "0.mp4", 3.0)
    (root / "images" / "outside.jpg").symlink_to("/etc/hostname")
    (root / "images" / "loop.jpg").symlink_to(root / "images" / "loop.jpg")
    (root / "images" / "link.jpg").symlink_to(root.parent / "elsewhere.jpg")
    draw(1).save(root.parent / "elsewhere.jpg")
    Image.new("RGB", (9, 9)).save(root / "images" / "small.bmp")
    lines = [json.dumps(good(i)) for i in range(fine)]
    for number in range(broken):
        change = CHANGES[number % len(CHANGES)]
        found = change(draws, good(1000 + number), root)
        lines.append(found if isinstance(found, str) else json.dumps(found))
    (root / "train.jsonl").write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))


def pointing(root: Path, fine: int, broken: int, seed: int = 8) -> None:
    """RefSpatial's style: rows with masks, of which `broken` fit no image, or points that are none."""
    draws = random.Random(seed)
    image(root / "image" / "0.png", seed=3)
    mask(root / "mask" / "0.png", (10, 10, 30, 30))
    for name, box, size in (
        ("small", (1, 1, 9, 9), (32, 24)), ("turned", (1, 1, 9, 9), (48, 64)), ("1", (0, 0, 1, 1), (1, 1)),
        ("empty", (0, 0, 0, 0), (64, 48)), ("wide", (1, 1, 9, 9), (65, 48)),
    ):  # fmt: skip
        mask(root / "mask" / f"{name}.png", box, size)
    (root / "mask" / "bomb.png").write_bytes(bomb(64, 1 << 30))
    (root / "mask" / "whole.png").write_bytes(bomb(16_000, 16_000, 16_000))
    (root / "mask" / "cut.png").write_bytes((root / "mask" / "0.png").read_bytes()[:60])
    masks = [
        "small", "turned", "1", "empty", "wide", "bomb", "whole", "cut", "none", "../../x", "\x00"
    ]  # fmt: skip
    points = [
        "[(nan, nan)]", "[(0.5, nan)]", "[(inf, 0)]", "[(-0.1, 0.5)]", "[(2, 2)]", "[(1e999, 1)]",
        "[]", "here", "[(0.5)]", "[(0.1, 0.2, 0.3)]", "[(NaN, NaN)]", "(" * 400,
    ]  # fmt: skip
    row = {"prompt": "Point to the cup.", "suffix": "Use 0 to 1.", "rgb_path": "image/0.png"}
    rows = [{**row, "id": i, "mask_path": "mask/0.png"} for i in range(fine)]
    for i in range(broken):
        which = {"mask_path": f"mask/{draws.choice(masks)}.png"}
        rows.append(
            {**row, "id": 1000 + i, **(which if i % 2 else {"answer": draws.choice(points)})}
        )
    (root / "question.json").write_text(json.dumps(rows))


def spoilt_files(root: Path, seed: int = 9) -> list[tuple[str, bytes]]:
    """Whole files as they should not be: name and content, made out of good ones."""
    draws = random.Random(seed)
    rows = json.dumps([good(i) for i in range(8)], indent=1)
    lines = "\n".join(json.dumps(good(i)) for i in range(8))
    table = parquet_bytes()
    found: list[tuple[str, bytes]] = [
        ("a.json", rows.encode("utf-16")), ("a.json", rows.encode("utf-32")),
        ("a.json", b"\xef\xbb\xbf" + rows.encode()), ("a.json", rows.replace("cups", "tasses à").encode("latin-1")),
        ("a.json", b""), ("a.json", b"{"), ("a.json", b"[" * 100_000), ("a.json", b"\x00" * 4096),
        ("a.json", gzip.compress(rows.encode())), ("a.json", rows.encode()[1:]),
        ("a.jsonl", lines.encode("utf-16")), ("a.jsonl", lines.replace("\n", "\r\n").encode()),
        ("a.jsonl", lines.replace("\n", " ").encode()), ("a.jsonl", b'{"a": "' + b"x" * (20 << 20)),
        ("a.parquet", b"PAR1" + bytes(64) + b"PAR1"), ("a.parquet", b""), ("a.parquet", rows.encode()),
    ]  # fmt: skip
    for _ in range(6):
        found.append(("a.json", damaged(draws, rows.encode())))
        found.append(("a.parquet", damaged(draws, table)))
        found.append(("a.jsonl", damaged(draws, lines.encode())))
    return found


def parquet_bytes() -> bytes:
    """A small table of questions with images."""
    data = io.BytesIO()
    draw(2).save(data, "PNG")
    picture = {"bytes": data.getvalue(), "path": None}
    rows = [{"question": f"How many at {i}?", "answer": str(i), "image": picture} for i in range(8)]
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()

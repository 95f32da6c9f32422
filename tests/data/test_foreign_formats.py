"""Files that are no picture, table or video that is read: the reason names what they are."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from pelican.data.formats import sniff
from pelican.data.formats.base import Options
from pelican.data.signatures import foreign
from pelican.errors import UserInputError
from tests.data.formats.world import draw, image, imported, write_json

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


def encoded(kind: str) -> bytes:
    out = io.BytesIO()
    draw(1).save(out, kind)
    return out.getvalue()


FILES: list[tuple[str, bytes, str]] = [
    ("a.gif", encoded("GIF"), "GIF"),
    ("a.tiff", encoded("TIFF"), "TIFF"),
    ("a.avif", encoded("AVIF"), "AVIF"),
    ("a.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 99, "HEIC"),
    ("a.heif", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + b"\0" * 99, "HEIF"),
    ("a.jp2", encoded("JPEG2000"), "JPEG 2000"),
    ("a.jxl", b"\xff\x0a" + b"\0" * 99, "JPEG XL"),
    ("a.svg", b"<?xml version='1.0'?>\n<!-- x -->\n<svg xmlns='x'/>", "SVG"),
    ("a.pdf", b"%PDF-1.7\n" + b"\0" * 99, "PDF"),
    ("a.ico", encoded("ICO"), "ICO"),
    ("a.ppm", encoded("PPM"), "Netpbm"),
    ("a.npy", b"\x93NUMPY\1\0" + b"\0" * 99, "NumPy"),
    ("a.mp4", b"\0\0\0\x18ftypisom" + b"\0" * 99, "video"),
    ("page.jpg", b"\n<!DOCTYPE html><title>404</title>", "HTML"),
    ("pointer.jpg", POINTER, "git lfs pull"),
    ("annex.jpg", b"/annex/objects/SHA256E-s1--0.jpg\n", "git annex get"),
]


def ask(name: str, tag: str = "image") -> dict[str, Any]:
    turns = [
        {"from": "human", "value": f"<{tag}>\nHow many red blocks?"},
        {"from": "gpt", "value": "1"},
    ]
    return {"id": name, tag: name, "conversations": turns}


def test_a_file_that_is_no_picture_is_called_what_it_is(tmp_path: Path) -> None:
    root = tmp_path / "lab"
    image(root / "good.png")
    for name, data, _ in FILES:
        (root / f"{name}.png").write_bytes(data)  # whatever it is called
    write_json(root / "rows.json", [ask("good.png"), *(ask(f"{name}.png") for name, _, _ in FILES)])
    found = imported(root, tmp_path / "pool")
    assert found.bad == {f"{name}.png": "image_unreadable" for name, _, _ in FILES}
    for name, _, words in FILES:
        assert words in found.reasons[f"{name}.png"]


@pytest.mark.parametrize(
    "data",
    [encoded("PNG"), encoded("JPEG"), encoded("WEBP"), encoded("BMP"), b"", b"[{}]", b"\0" * 600],
)
def test_what_is_taken_or_nobody_knows_is_not_called_anything(data: bytes) -> None:
    assert foreign(data) == "" and foreign(data[:20]) == ""


def test_a_video_that_git_left_behind(tmp_path: Path) -> None:
    root = tmp_path / "lab"
    image(root / "good.png")
    (root / "a.mp4").write_bytes(POINTER)
    write_json(root / "rows.json", [ask("good.png"), ask("a.mp4", "video")])
    found = imported(root, tmp_path / "pool")
    assert found.bad == {"a.mp4": "video_unreadable"}
    assert "git lfs pull" in found.reasons["a.mp4"]


@pytest.mark.parametrize(
    ("name", "reader"), [("a.json", "llava"), ("a.jsonl", "llava"), ("a.parquet", "parquet")]
)
def test_rows_that_git_left_behind(tmp_path: Path, name: str, reader: str) -> None:
    root = tmp_path / "lab"
    root.mkdir()
    (root / name).write_bytes(POINTER)
    with pytest.raises(UserInputError, match="git lfs pull"):
        imported(root, tmp_path / "pool", reader=reader)
    with pytest.raises(UserInputError, match="git lfs pull"):
        sniff(str(root), Options())

"""What a file is by its first bytes, so that a reason names a format instead of damage."""

from __future__ import annotations

from pathlib import Path

HEAD = 512  # bytes that are looked at

LFS = "a Git LFS pointer, not the file; `git lfs pull` in its repository brings it"
_ANNEX = "a git-annex pointer, not the file; `git annex get` in its repository brings it"
_PAGE = "a page of HTML, not the file; download it again"
_AS_PNG = "which is not taken; write it as PNG, JPEG or WebP"

# (offset, bytes there, what that is), the longer before its own beginning.
_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", LFS),
    (0, b"/annex/objects/", _ANNEX),
    (0, b"../.git/annex/objects/", _ANNEX),
    (0, b"GIF87a", f"GIF, {_AS_PNG}"),
    (0, b"GIF89a", f"GIF, {_AS_PNG}"),
    (0, b"II*\0", f"TIFF, {_AS_PNG}"),
    (0, b"MM\0*", f"TIFF, {_AS_PNG}"),
    (0, b"II+\0", f"BigTIFF, {_AS_PNG}"),
    (0, b"MM\0+", f"BigTIFF, {_AS_PNG}"),
    (4, b"ftypavif", f"AVIF, {_AS_PNG}"),
    (4, b"ftypavis", f"AVIF, {_AS_PNG}"),
    *((4, b"ftyp" + brand, f"HEIC, {_AS_PNG}") for brand in (b"heic", b"heix", b"heim", b"heis")),
    *((4, b"ftyp" + brand, f"HEIF, {_AS_PNG}") for brand in (b"hevc", b"hevx", b"mif1", b"msf1")),
    (4, b"ftyp", "a video of the MP4 family, not a picture"),
    (0, b"\x1aE\xdf\xa3", "a Matroska or WebM video, not a picture"),
    (0, b"\0\0\0\x0cJXL ", f"JPEG XL, {_AS_PNG}"),
    (0, b"\xff\x0a", f"JPEG XL, {_AS_PNG}"),
    (0, b"\0\0\0\x0cjP  ", f"JPEG 2000, {_AS_PNG}"),
    (0, b"\xff\x4f\xff\x51", f"JPEG 2000, {_AS_PNG}"),
    (0, b"\x76\x2f\x31\x01", f"OpenEXR, {_AS_PNG}"),
    (0, b"#?RADIANCE", f"Radiance HDR, {_AS_PNG}"),
    (0, b"8BPS", f"Photoshop, {_AS_PNG}"),
    (0, b"\0\0\1\0", f"ICO, {_AS_PNG}"),
    (0, b"qoif", f"QOI, {_AS_PNG}"),
    (0, b"DDS ", f"DDS, {_AS_PNG}"),
    (128, b"DICM", f"DICOM, {_AS_PNG}"),
    *((0, b"P%d\n" % n, f"Netpbm (PNM), {_AS_PNG}") for n in range(1, 8)),
    (0, b"%PDF", f"PDF, {_AS_PNG}"),
    (0, b"\x93NUMPY", f"a NumPy array, {_AS_PNG}"),
    (0, b"PK\x03\x04", "a ZIP archive (also .npz), not a picture; unpack it"),
    (0, b"\x1f\x8b", "gzip, not a picture; unpack it"),
)  # fmt: skip


def foreign(head: bytes) -> str:
    """What a file is that starts with `head` and is no picture that is taken; "" if nobody knows.

    Such as "GIF, which is not taken; write it as PNG, JPEG or WebP".
    """
    for offset, magic, what in _MAGIC:
        if head.startswith(magic, offset):
            return what
    text = head[:HEAD].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return _PAGE
    if text.startswith((b"<svg", b"<?xml", b"<!--")) and b"<svg" in text:
        return f"SVG, {_AS_PNG}"
    return ""


def pointer_in(path: Path) -> str:
    """As `pointer`, of a file; "" also for one that can't be read."""
    try:
        with path.open("rb") as file:
            return pointer(file.read(HEAD))
    except OSError:
        return ""


def pointer(head: bytes) -> str:
    """As `foreign`, of what stands for a file of any kind and is not it; "" if it is the file."""
    what = foreign(head)
    return what if what in (LFS, _ANNEX, _PAGE) else ""

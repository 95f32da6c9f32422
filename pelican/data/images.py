"""Encoded images: decoded once to prove that they can be, scaled down where they are large."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from pelican.base.files import resolve_below
from pelican.data.tables import RowError
from pelican.errors import UserInputError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
JPEGS = ("JPEG", "MPO")  # MPO: a JPEG of a phone with a second picture behind it
SAFE_PIXELS = 4096 * 4096  # about 50 MB decoded
HUGE = 8  # times max_pixels


def refused_above(max_pixels: int) -> int:
    """Pixels above which an image is refused by its header, before it is decoded."""
    return max(HUGE * max_pixels, SAFE_PIXELS)


def checked_image(data: bytes, max_pixels: int) -> bytes:
    """`data` as it is, or scaled down to `max_pixels`. Raises RowError if it can't be used."""
    with decoding(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return usable(image, data, max_pixels)


def usable(image: Image.Image, data: bytes, max_pixels: int) -> bytes:
    """`checked_image` for `data` that is open as `image` already; `image` can't be used afterwards."""
    refuse_huge(image, max_pixels)
    width, height = image.size
    if width * height <= max_pixels:
        # The pixels are not used: a JPEG is read to its end, at the smallest size it can be decoded to.
        image.draft(None, (1, 1))
        image.load()
        return data
    image.load()
    smaller = scaled(image.convert("RGB"), max_pixels)
    out = io.BytesIO()
    lossy = image.format in JPEGS
    smaller.save(out, "JPEG", quality=95) if lossy else smaller.save(out, "PNG")
    return out.getvalue()


def refuse_huge(image: Image.Image, max_pixels: int) -> None:
    """Raise RowError for an image that is too large to decode, by its header."""
    width, height = image.size
    if width * height > refused_above(max_pixels):
        raise RowError(
            "image_huge",
            f"an image of {width} x {height} pixels is above the {refused_above(max_pixels)} pixels"
            " that are decoded; scale it down",
        )


@contextmanager
def decoding(code: str = "image_unreadable", what: str = "an image") -> Iterator[None]:
    """A RowError in place of whatever a decoder raises on hostile bytes."""
    try:
        yield
    except RowError:
        raise
    except Image.DecompressionBombError as error:
        raise RowError("image_huge", f"{what} is too large: {error}") from None
    except Exception as error:
        detail = (str(error).split(" <_io")[0].splitlines() or [type(error).__name__])[0]
        raise RowError(code, f"{what} can't be decoded ({detail})") from None


def scaled(image: Image.Image, max_pixels: int) -> Image.Image:
    """At most `max_pixels`, same aspect; answers are relative to the frame, so they stay right."""
    if image.width * image.height <= max_pixels:
        return image
    factor = math.sqrt(max_pixels / (image.width * image.height))
    size = (max(1, int(image.width * factor)), max(1, int(image.height * factor)))
    return image.resize(size, Image.Resampling.LANCZOS)


def image_bytes(image: object, folder: Path) -> bytes:
    """The bytes of one entry of `images`: its own, or of the file at `path` below `folder`."""
    if not isinstance(image, dict):
        raise RowError("image_missing", "an image is null")
    data, path = image.get("bytes"), image.get("path")
    if isinstance(data, bytes) and data:
        return data
    if not path:
        raise RowError("image_missing", "an image has neither bytes nor a path")
    try:
        target = resolve_below(folder, str(path))
    except UserInputError:
        raise RowError("image_path", f"image path {path!r} leaves the data folder") from None
    try:
        if not target.is_file():
            raise RowError("image_missing", f"image {path!r} is not a file")
        return target.read_bytes()
    except OSError as error:
        raise RowError(
            "image_missing", f"image {path!r} can't be read ({error.strerror})"
        ) from None


def image_digest(data: bytes) -> bytes:
    """A digest of an encoded image; equal images have equal ones."""
    return hashlib.blake2b(data, digest_size=16).digest()


class ImageChecker:
    """Checks equal images that stand near each other once; they share one `bytes` object."""

    REMEMBERED = 4096

    def __init__(self, max_pixels: int) -> None:
        self.max_pixels = max_pixels
        self._seen: dict[bytes, bytes | RowError] = {}

    def __call__(self, data: bytes) -> bytes:
        """Raises RowError, for the same reason every time."""
        key = image_digest(data)
        if key not in self._seen:
            if len(self._seen) >= self.REMEMBERED:
                self._seen.clear()  # a pool may be larger than the memory
            try:
                self._seen[key] = checked_image(data, self.max_pixels)
            except RowError as error:
                self._seen[key] = error
        found = self._seen[key]
        if isinstance(found, RowError):
            raise RowError(found.code, found.reason)
        return found

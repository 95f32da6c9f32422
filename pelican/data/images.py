"""Encoded images: decoded once to prove that they can be, scaled down where they are large."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from pelican.base.files import resolve_below
from pelican.data.signatures import foreign
from pelican.data.tables import RowError, named
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
    with opened(data) as image:
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
    return _encoded(scaled(as_seen(image), max_pixels), "JPEG" if image.format in JPEGS else "PNG")


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


@contextmanager
def opened(data: bytes) -> Iterator[Image.Image]:
    """An encoded image, open but not decoded. Raises RowError for all that goes wrong in the block."""
    with decoding():
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError:
            if what := foreign(data):
                raise RowError(
                    "image_unreadable", f"it is {what} (the decoder cannot identify it)"
                ) from None
            raise
        with image:
            yield image


def _encoded(image: Image.Image, kind: str) -> bytes:
    out = io.BytesIO()
    if kind == "JPEG":
        image.save(out, kind, quality=95)
    else:
        image.save(out, kind)
    return out.getvalue()


def scaled(image: Image.Image, max_pixels: int) -> Image.Image:
    """At most `max_pixels`, same aspect; answers are relative to the frame, so they stay right."""
    if image.width * image.height <= max_pixels:
        return image
    factor = math.sqrt(max_pixels / (image.width * image.height))
    size = (max(1, int(image.width * factor)), max(1, int(image.height * factor)))
    return image.resize(size, Image.Resampling.LANCZOS)


# Pixels as a person sees them: the same for imports, engines, served models and pages.
#
# A decoder's own way to RGB forgets how a picture is turned, takes what is transparent for the colour
# below it (mostly black), and cuts 16 bits at 255, so that all is white.

_ORIENTATION = 0x0112  # EXIF
# In which Pillow looks for it.
_EXIF = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
_BEHIND = (b"eXIf", b"adobe.xmp", b"profile type exif")  # what PNG may have behind its pixels
_TURNS = dict(
    enumerate(
        (
            Image.Transpose.FLIP_LEFT_RIGHT,
            Image.Transpose.ROTATE_180,
            Image.Transpose.FLIP_TOP_BOTTOM,
            Image.Transpose.TRANSPOSE,
            Image.Transpose.ROTATE_270,
            Image.Transpose.TRANSVERSE,
            Image.Transpose.ROTATE_90,
        ),
        2,
    )
)
_WHITE = (255, 255, 255, 255)  # what is transparent lies on it, as on a page and in Qwen's own code
Range = tuple[int, int]  # the values of a 16-bit picture that are black and white
WORDS: Range = (0, 65535)


def as_seen(image: Image.Image, values: Range = WORDS) -> Image.Image:
    """The picture in RGB as a viewer shows it, decoded; the first one of an animation.

    Upright, on white where it is transparent, grey of 16 bits by its full range, or by `values` where
    somebody said which are black and white, inks by their profile. Raises what Pillow raises.
    """
    image.load()
    if is_plain(image):
        return image.convert("RGB")
    if (turn := turned(image)) != 1:
        image = image.transpose(_TURNS[turn])
    if is_deep(image):
        seen = _shallow(image, values)
    elif image.has_transparency_data:
        over = image.convert("RGBA")
        seen = Image.alpha_composite(Image.new("RGBA", over.size, _WHITE), over).convert("RGB")
    else:
        seen = _by_profile(image) or image.convert("RGB")
    seen.info.pop("transparency", None)  # Pillow would write the old key beside the new pixels
    return seen


def seen_bytes(data: bytes) -> bytes:
    """`data` as it is where every decoder shows what `as_seen` does, else that as PNG or JPEG.

    For who decodes elsewhere: an endpoint, a pool. Raises RowError if it can't be decoded.
    """
    with opened(data) as image:
        return seen_again(image, data)


def seen_again(image: Image.Image, data: bytes, values: Range = WORDS) -> bytes:
    """`seen_bytes` for `data` that is open as `image` already; a plain JPEG is not decoded."""
    if image.format not in JPEGS:
        image.load()  # what PNG says of its turn may stand behind its pixels
    if is_plain(image):
        return data
    seen = as_seen(image, values)
    clear = image.has_transparency_data  # straight to RGB, Pillow warns of some of these
    decoded = (image.convert("RGBA") if clear else image).convert("RGB")
    if turned(image) == 1 and seen.tobytes() == decoded.tobytes():
        return data  # such as a picture whose every pixel is opaque
    if image.format not in JPEGS:
        return _encoded(seen, "PNG")
    out = io.BytesIO()
    seen.save(out, "JPEG", quality=95, subsampling=0)
    return out.getvalue()


def is_plain(image: Image.Image) -> bool:
    """Whether any decoder's RGB is what a viewer shows, by the header alone."""
    return not (
        is_deep(image)
        or image.has_transparency_data
        or (image.mode == "CMYK" and "icc_profile" in image.info)
        or turned(image) != 1
    )


def is_deep(image: Image.Image) -> bool:
    """Whether it is grey of more than 8 bits: a photo, or values such as depth."""
    return image.mode.startswith("I")


def turned(image: Image.Image) -> int:
    """How EXIF or XMP says that the picture is turned, 1 to 8; 1 is upright."""
    if not any(name in image.info for name in _EXIF):
        return 1
    found = image.getexif().get(_ORIENTATION, 1)
    return found if found in _TURNS else 1


def _shallow(image: Image.Image, values: Range) -> Image.Image:
    low, high = values
    grey = (np.asarray(image).astype(np.float32) - low) * (255.0 / max(1, high - low))
    return Image.fromarray(grey.round().clip(0, 255).astype(np.uint8)).convert("RGB")


def _by_profile(image: Image.Image) -> Image.Image | None:
    """Inks in RGB by the profile in the file; None if it has none, or one that can't be used."""
    profile = image.info.get("icc_profile")
    if image.mode != "CMYK" or not profile:
        return None
    try:
        return ImageCms.applyTransform(image, _transform(profile))
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


@lru_cache(maxsize=8)
def _transform(profile: bytes) -> Any:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), "CMYK", "RGB")


def open_seen(data: bytes) -> Image.Image:
    """An encoded image as it is seen. Raises what Pillow raises."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return as_seen(image)


def seen_size(data: bytes) -> tuple[int, int]:
    """(width, height) of an encoded image as it is seen, by its header."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.format == "PNG" and any(mark in data for mark in _BEHIND):
            image.load()
        return upright_size(image)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of an open image once it is upright."""
    width, height = image.size
    return (height, width) if turned(image) >= 5 else (width, height)


# Images of a pool, by their bytes.


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
        raise RowError("image_path", f"image path {named(path)} leaves the data folder") from None
    try:
        if not target.is_file():
            raise RowError("image_missing", f"image {named(path)} is not a file")
        return target.read_bytes()
    except OSError as error:
        raise RowError(
            "image_missing", f"image {named(path)} can't be read ({error.strerror})"
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

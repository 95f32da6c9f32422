"""Media of a record: found below the allowed folders, opened, turned upright, scaled down."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageOps

from pelican.data.images import (
    FORMATS,
    JPEGS,
    checked_image,
    decoding,
    image_digest,
    usable,
)
from pelican.data.importing.finder import Finder
from pelican.data.quarantine import RowError
from pelican.data.readers.base import Media
from pelican.data.video.cache import ClipCache
from pelican.data.video.clips import Clip, ClipRule
from pelican.errors import UserInputError

MIN_SIDE = 4  # pixels; below, nothing can be seen
MAX_ASPECT = 100.0  # Qwen2-VL's processor refuses 200 and above
MAX_FILE = 64 << 20  # bytes of an encoded image: above, it has more pixels than are decoded
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_ORIENTATION = 0x0112  # EXIF


@dataclass(frozen=True, slots=True)
class Loaded:
    """Encoded images with times; `size` (width, height) of the first before it was scaled."""

    images: tuple[bytes, ...]
    times_s: tuple[float, ...]
    clip: bool
    size: tuple[int, int]
    start_s: float = 0.0  # of the window in its video
    scene: str = ""  # what tells the medium from others


@dataclass
class Loader:
    """Opens the media of records. Threads may share it."""

    finder: Finder
    rule: ClipRule
    clips: ClipCache

    def load(self, media: Sequence[Media]) -> Loaded:
        """Stills in their order, or the frames of one clip or several. Raises RowError."""
        if not media:
            raise RowError("media_missing", "the row names no image and no video")
        kinds = {m.kind for m in media}
        if kinds == {"image"}:
            return self._stills(media)
        if "image" in kinds:
            raise RowError("media_mixed", "a row has images and videos; keep them in two rows")
        return self._clips(media)

    def _stills(self, media: Sequence[Media]) -> Loaded:
        read = [self.image_bytes(m) for m in media]
        prepared = [
            _named(medium, data, self.rule.max_pixels)
            for medium, data in zip(media, read, strict=True)
        ]
        images = tuple(data for data, _ in prepared)
        clip = len(media) > 1 and all(m.start_s is not None for m in media)
        times = (
            tuple(m.start_s or 0.0 for m in media) if clip else tuple(map(float, range(len(media))))
        )
        scene = media[0].path or image_digest(read[0]).hex()
        return Loaded(images, times, clip, prepared[0][1], scene=scene)

    def image_bytes(self, medium: Media) -> bytes:
        """The encoded bytes of an image, its own or of its file. Raises RowError."""
        if medium.data is not None:
            return medium.data
        return _read(self.finder.find(medium.path), medium.path)

    def _clips(self, media: Sequence[Media]) -> Loaded:
        images: list[bytes] = []
        times: list[float] = []
        scene = ""
        for medium in media:
            clip, path = self._clip(medium)
            shift = times[-1] + self.rule.step_s if times else 0.0
            images += clip.frames
            times += [round(shift + time, 6) for time in clip.times_s]
            scene = scene or path
        if self.rule.horizon_s is not None and times[-1] > self.rule.horizon_s:
            raise RowError(
                "clip_long",
                f"{len(media)} videos of {times[-1]:.1f} s together are longer than the horizon of"
                f" {self.rule.horizon_s:g} s",
            )
        with Image.open(io.BytesIO(images[0])) as image:
            size = image.size
        return Loaded(tuple(images), tuple(times), True, size, media[0].start_s or 0.0, scene)

    def _clip(self, medium: Media) -> tuple[Clip, str]:
        if medium.data is not None:
            raise RowError(
                "video_unreadable", "a video inside a table is not read; give it by path"
            )
        if medium.kind == "frames":
            return self._frames(medium), medium.path
        path = self.finder.find(medium.path)
        try:
            return self.clips(path, self.rule, medium.start_s, medium.end_s), medium.path
        except (OSError, UserInputError) as error:
            if isinstance(error, UserInputError):
                raise
            raise RowError(
                "media_missing", f"{medium.path!r} can't be read ({error.strerror})"
            ) from None

    def _frames(self, medium: Media) -> Clip:
        """A folder of frames, in the order of their names; sampled by time at the folder's rate."""
        folder = self.finder.find(medium.path, folder=True)
        paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in _ENDINGS)
        paths = [p for p in paths if not p.stem.endswith(("-depth", "_depth"))]
        if len(paths) < 2:
            raise RowError("clip_step", f"folder {medium.path!r} holds {len(paths)} frames")
        fps = medium.fps or 1.0
        first = max(0, int((medium.start_s or 0.0) * fps))
        last = len(paths) if medium.end_s is None else min(len(paths), int(medium.end_s * fps) + 1)
        span = (last - first - 1) / fps
        if span <= 0:
            raise RowError("video_window", f"the window of folder {medium.path!r} is empty")
        if self.rule.horizon_s is not None and span > self.rule.horizon_s:
            raise RowError(
                "clip_long",
                f"a clip of {span:.1f} s is longer than the horizon of {self.rule.horizon_s:g} s",
            )
        step = max(1, round(max(self.rule.step_s, span / self.rule.max_frames) * fps))
        chosen = range(first, last, step)
        # By the finder, each: a folder inside may hold a link that leads out.
        files = [Media("image", f"{medium.path.rstrip('/')}/{paths[i].name}") for i in chosen]
        frames = tuple(
            _named(file, self.image_bytes(file), self.rule.max_pixels)[0] for file in files
        )
        if len(frames) < 2:
            raise RowError("clip_step", f"folder {medium.path!r} shows one frame in its window")
        return Clip(frames, tuple(round((i - first) / fps, 6) for i in chosen))


def _named(medium: Media, data: bytes, max_pixels: int) -> tuple[bytes, tuple[int, int]]:
    """See `_prepared`; what is wrong names the file."""
    try:
        return _prepared(data, max_pixels)
    except RowError as error:
        name = f"{medium.path!r}: " if medium.path else ""
        raise RowError(error.code, f"{name}{error.reason}") from None


def _read(path: Path, name: str) -> bytes:
    """The bytes of an image file that a row calls `name`. Raises RowError."""
    try:
        # Four calls instead of nine: each hands the interpreter's lock to another thread and back.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(handle).st_size
            if size > MAX_FILE:
                raise RowError("image_huge", f"{name!r} has {size >> 20} MB")
            if size == 0:
                raise RowError("image_unreadable", f"{name!r} is empty")
            data = os.read(handle, size)
            while len(data) < size and (more := os.read(handle, size - len(data))):
                data += more
            return data
        finally:
            os.close(handle)
    except OSError as error:
        raise RowError("media_missing", f"{name!r} can't be read ({error.strerror})") from None


@lru_cache(maxsize=16)  # the questions of one image stand together; one may be large
def _prepared(data: bytes, max_pixels: int) -> tuple[bytes, tuple[int, int]]:
    """An image upright and of at most `max_pixels`; its (width, height) before it was scaled.

    Encoded again only where it is turned or scaled: no viewer or processor then sees it another
    way. Raises RowError.
    """
    with decoding(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        if min(width, height) < MIN_SIDE or max(width, height) > MAX_ASPECT * min(width, height):
            raise RowError("image_shape", f"an image of {width} x {height} pixels shows nothing")
        said = "exif" in image.info or "xmp" in image.info
        if image.format not in JPEGS or not said or image.getexif().get(_ORIENTATION, 1) == 1:
            return usable(image, data, max_pixels), (width, height)
        if width * height > 1 << 26:
            raise RowError("image_huge", f"an image of {width} x {height} pixels is too large")
        turned = ImageOps.exif_transpose(image).convert("RGB")
        out = io.BytesIO()
        turned.save(out, "JPEG", quality=95, subsampling=0)
    return checked_image(out.getvalue(), max_pixels), turned.size

"""A few frames of a clip: evenly spread over the part that is asked about, as JPEG."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from pelican.benchmarks.base import Clip
from pelican.data.images import FORMATS, scaled
from pelican.data.quarantine import RowError
from pelican.data.video.base import open_video
from pelican.errors import UserInputError

_ENDINGS = frozenset({".jpg", ".jpeg", ".png"})
Frames = tuple[list[float], list[bytes]]


def read_frames(clip: Clip, folder: Path, count: int, max_pixels: int) -> Frames:
    """Times in seconds and frames of the middles of `count` equal parts; fewer in a short clip.

    Raises RowError if the clip can't be read or its path leaves the folder.
    """
    root = folder.resolve()
    path = (root / clip.path).resolve()
    if not path.is_relative_to(root):
        raise RowError("image_path", f"clip path {clip.path!r} leaves the data folder")
    if path.is_dir():
        found = _of_folder(path, clip, count)
    elif path.is_file():
        found = _of_video(path, clip, count)
    else:
        raise RowError("image_missing", f"clip {clip.path!r} is not a file")
    times: list[float] = []
    images: list[bytes] = []
    try:
        for time, image in found:
            if not times or time > times[-1]:
                times.append(time)
                images.append(_jpeg(image, max_pixels))
    except (RowError, UserInputError):
        raise
    except Exception as error:  # a decoder raises whatever it likes on hostile bytes
        raise RowError("image_unreadable", f"clip {clip.path!r} can't be read ({error})") from None
    if not images:
        raise RowError(
            "image_unreadable", f"clip {clip.path!r} has no frame in the part asked about"
        )
    return times, images


def _of_folder(path: Path, clip: Clip, count: int) -> Iterator[tuple[float, Image.Image]]:
    fps = clip.fps or 1.0
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in _ENDINGS)
    first = max(0, math.floor(clip.start_s * fps))
    last = len(files) if clip.end_s is None else min(len(files), math.ceil(clip.end_s * fps))
    for part in range(count):
        index = first + int((part + 0.5) * (last - first) / count)
        if index < len(files) and last > first:
            with Image.open(files[index], formats=FORMATS) as image:
                yield index / fps, image.convert("RGB")


def _of_video(path: Path, clip: Clip, count: int) -> Iterator[tuple[float, Image.Image]]:
    """The frame nearest to each wanted time."""
    video = open_video(path)
    try:
        if video.info.duration_s is None:
            raise RowError("video_unreadable", f"the length of clip {clip.path!r} is not known")
        end = min(video.info.duration_s, math.inf if clip.end_s is None else clip.end_s)
        step = (end - clip.start_s) / count
        # `frames_at` gives the frame shown at a time: half a frame later, that is the nearest one.
        half = 0.499 / (video.info.fps or 25.0)
        if step > 0:
            yield from video.frames_at(
                [clip.start_s + (part + 0.5) * step + half for part in range(count)]
            )
    finally:
        video.close()


def _jpeg(image: Image.Image, max_pixels: int) -> bytes:
    out = io.BytesIO()
    scaled(image.convert("RGB"), max_pixels).save(out, "JPEG", quality=95)
    return out.getvalue()

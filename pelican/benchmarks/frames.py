"""A few frames of a clip: evenly spread over the part that is asked about, as JPEG."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from pelican.benchmarks.base import Clip
from pelican.data.images import FORMATS
from pelican.data.quarantine import RowError
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
    except UserInputError:
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
    """Decoded once from its start, holding one frame at a time."""
    try:
        import av
    except ImportError:
        raise UserInputError("videos need PyAV; install it with `uv pip install av`") from None
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError("no video stream")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        begin = float((stream.start_time or 0) * (stream.time_base or 0))
        end = _length(container, stream)
        if clip.end_s is not None:
            end = min(end, clip.end_s)
        wanted = [
            clip.start_s + (part + 0.5) * (end - clip.start_s) / count for part in range(count)
        ]
        for frame in container.decode(stream):
            if frame.time is None:
                continue
            time = frame.time - begin
            due = 0
            # The first frame at or after the wanted time, half a frame early at most.
            while due < len(wanted) and wanted[due] <= time + 0.5 / _rate(stream):
                due += 1
            if due:
                decoded: Any = frame
                yield time, decoded.to_image()
                wanted = wanted[due:]
            if not wanted:
                return


def _rate(stream: object) -> float:
    return float(getattr(stream, "average_rate", None) or 25)


def _length(container: object, stream: object) -> float:
    duration, base = getattr(stream, "duration", None), getattr(stream, "time_base", None)
    if duration and base:
        return float(duration * base)
    whole = getattr(container, "duration", None)  # microseconds
    if whole:
        return float(whole) / 1e6
    raise ValueError("its length is not known")


def _jpeg(image: Image.Image, max_pixels: int) -> bytes:
    if image.width * image.height > max_pixels:
        factor = math.sqrt(max_pixels / (image.width * image.height))
        size = (max(1, int(image.width * factor)), max(1, int(image.height * factor)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.convert("RGB").save(out, "JPEG", quality=95)
    return out.getvalue()

"""A clip: the frames of a video at fixed steps of time, as JPEG, with their exact times."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pelican.data.images import refused_above, scaled
from pelican.data.quarantine import RowError
from pelican.data.video.base import VideoInfo, open_video

QUALITY = 90
TRUNCATED_S = 0.5  # a video may end this much before its header says, or two frames before
TRUNCATED_SHARE = 0.02


@dataclass(frozen=True)
class ClipRule:
    """How clips are cut. `step_s` grows where a clip would have more than `max_frames` frames.

    `horizon_s` None: clips of any length, as evaluation sets have them.
    """

    step_s: float = 1.0
    max_frames: int = 64
    horizon_s: float | None = 64.0
    max_pixels: int = 1_003_520


@dataclass(frozen=True, slots=True)
class Clip:
    """Encoded frames with their times in seconds from the start of the window, rising."""

    frames: tuple[bytes, ...]
    times_s: tuple[float, ...]


def cut_clip(
    path: Path, rule: ClipRule, start_s: float | None = None, end_s: float | None = None
) -> Clip:
    """The clip of `path` between `start_s` and `end_s`. Raises RowError for what can't be used."""
    limit = refused_above(rule.max_pixels)
    video = open_video(path, limit)
    try:
        info = video.info
        if info.width * info.height > limit:
            raise RowError(
                "image_huge", f"a video of {info.width} x {info.height} pixels is too large"
            )
        window = _window(path.name, info.duration_s, start_s, end_s, rule)
        times = targets(window[0], window[1], rule)
        frames: list[bytes] = []
        shown: list[float] = []
        for time, image in video.frames_at(times):
            at = round(max(time - window[0], 0.0), 6)
            if shown and at <= shown[-1]:
                continue
            frames.append(encoded(image, rule.max_pixels))
            shown.append(at)
        reached_s = video.reached_s
    finally:
        video.close()
    _whole(path.name, info, times, len(frames), reached_s)
    return Clip(tuple(frames), tuple(shown))


def _window(
    name: str, length: float | None, start_s: float | None, end_s: float | None, rule: ClipRule
) -> tuple[float, float]:
    start = start_s or 0.0
    if not math.isfinite(start) or start < 0 or (end_s is not None and not end_s > start):
        raise RowError("video_window", f"the window {start:g} to {end_s} s of {name!r} is empty")
    end = length if end_s is None else end_s
    if length is not None and start >= length:
        raise RowError(
            "video_window", f"the window starts at {start:g} s, but {name!r} lasts {length:g} s"
        )
    if length is not None and end is not None and end > length + max(1.0, 0.02 * length):
        raise RowError(
            "video_window", f"the window ends at {end:g} s, but {name!r} lasts {length:g} s"
        )
    if end is None:
        end = start + (rule.horizon_s or 3600.0)  # a stream without a length: what there is
    if rule.horizon_s is not None and end - start > rule.horizon_s + 1e-6:
        raise RowError(
            "clip_long",
            f"a clip of {end - start:.1f} s is longer than the horizon of {rule.horizon_s:g} s;"
            " give a window or a longer --horizon-s",
        )
    return start, end


def targets(start_s: float, end_s: float, rule: ClipRule) -> list[float]:
    """Times from `start_s` on in equal steps, the end left out; at least two in any window."""
    step = max(rule.step_s, (end_s - start_s) / rule.max_frames)
    step = min(step, (end_s - start_s) / 2)
    count = max(2, math.ceil((end_s - start_s) / step - 1e-9))
    return [start_s + step * i for i in range(count)]


def _whole(
    name: str, info: VideoInfo, times: Sequence[float], frames: int, reached_s: float
) -> None:
    """Raise RowError if the video ended before its window did, or shows a single picture."""
    if not frames:
        raise RowError("video_truncated", f"video {name!r} holds no frame in its window")
    slack = max(TRUNCATED_S, TRUNCATED_SHARE * times[-1], 2 / info.fps if info.fps else 0.0)
    if info.duration_s is not None and reached_s + slack < times[-1]:
        raise RowError(
            "video_truncated",
            f"video {name!r} ends at {reached_s:.1f} s of the {info.duration_s:.1f} s that it names",
        )
    if frames < 2:
        raise RowError("clip_step", f"video {name!r} shows one frame alone")


def encoded(image: Image.Image, max_pixels: int) -> bytes:
    """A frame as JPEG of at most `max_pixels`."""
    out = io.BytesIO()
    scaled(image, max_pixels).convert("RGB").save(out, "JPEG", quality=QUALITY, subsampling=0)
    return out.getvalue()

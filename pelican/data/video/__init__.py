"""Clips of videos as frames: how they are cut, cached and decoded."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from PIL import Image

from pelican.base.parse import parse_json
from pelican.config import env
from pelican.data.images import SAFE_PIXELS, refused_above, scaled
from pelican.data.signatures import pointer_in
from pelican.data.tables import RowError
from pelican.errors import UserInputError

# Decoders: their interface, and the choice of one.

DECODER = env.VIDEO_DECODER


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """Width and height as shown (after rotation), frames a second, and when its pictures are shown.

    `start_s` and `end_s` are of the first and behind the last picture, as the file says; `end_s` is
    None if it says nothing. Second 0 is where a player's clock starts: with the first picture or
    sound of the file, whichever comes first.
    """

    width: int
    height: int
    fps: float
    start_s: float
    end_s: float | None


class Video(Protocol):
    """One open video; times count from its second 0 (see `VideoInfo`)."""

    info: VideoInfo
    reached_s: float  # end of the last frame that was decoded

    def frames_at(self, times_s: Sequence[float]) -> Iterator[tuple[float, Image.Image]]:
        """The frame shown at each of the rising `times_s`, upright, with its own exact time.

        A frame that is shown at two of them comes once, the first one also for times before it.
        Ends early where the video does.
        Raises RowError for a stream that can't be decoded. Holds one frame at a time.
        """

    def close(self) -> None: ...


def open_video(path: Path, max_pixels: int = SAFE_PIXELS) -> Video:
    """Raises RowError if there is no video stream or the file can't be opened.

    PyAV refuses playlists, and a frame above `max_pixels` before it has memory; torchcodec does not.
    """
    if path.exists() and not path.is_file():  # who opens a named pipe waits for ever
        raise RowError("video_unreadable", f"video {path.name!r} is no regular file")
    try:
        if what := pointer_in(path):
            raise RowError("video_unreadable", f"video {path.name!r} is {what}")
        name = decoder_name()
        if name == "torchcodec":
            from pelican.data.video.torchcodec import TorchcodecVideo

            return TorchcodecVideo(path)
        from pelican.data.video.pyav import PyavVideo

        return PyavVideo(path, max_pixels)
    except OSError as error:
        reason = error.strerror or str(error)
        raise RowError(
            "video_unreadable", f"video {path.name!r} can't be opened ({reason})"
        ) from None


@cache
def decoder_name() -> str:
    """The decoder to use: pyav, or torchcodec where PELICAN_VIDEO_DECODER says so.

    PyAV comes first: it brings its FFmpeg, needs no torch, and can be held back from hostile files.
    """
    wish = env.read(DECODER)
    if wish not in ("torchcodec", "pyav"):
        raise UserInputError(f"{DECODER} is {wish!r}; it takes torchcodec or pyav")
    if wish == "torchcodec":
        fault = torchcodec_fault()
        if fault:
            raise UserInputError(f"{DECODER}=torchcodec, but it does not load: {fault}")
        return wish
    if find_spec("av") is not None:
        return wish
    if not torchcodec_fault():
        return "torchcodec"
    raise UserInputError("videos need PyAV: `uv pip install -e '.[data]'` brings it")


def torchcodec_fault() -> str:
    """Why torchcodec can't be used; "" if it can. It loads FFmpeg at the first video, not before."""
    try:
        from torchcodec.decoders import VideoDecoder

        VideoDecoder(b"no video")
    except (ImportError, RuntimeError, ValueError, OSError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return said if isinstance(error, ImportError) or "libtorchcodec" in said else ""
    return ""


# The cache of clips, by digest of video and rule. The folder may be deleted at any time.

RULES = 2  # a clip of other rules of cutting is cut again
MAX_BYTES = 4 << 30  # on disk
REMEMBERED = 4  # in memory: the questions of one video stand together


class ClipCache:
    """`cut_clip` with a cache on disk. Threads may share it; a damaged cache file is made again."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._recent: OrderedDict[str, Clip] = OrderedDict()
        self._busy: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            _trim(folder)

    def __call__(
        self, path: Path, rule: ClipRule, start_s: float | None = None, end_s: float | None = None
    ) -> Clip:
        stat = path.stat()
        digest = content_digest(str(path), stat.st_size, stat.st_mtime_ns)
        what = json.dumps([RULES, digest, asdict(rule), start_s, end_s])
        key = hashlib.blake2b(what.encode(), digest_size=16).hexdigest()
        with self._lock:
            busy = self._busy.setdefault(key, threading.Lock())
        with busy:  # two questions of one video come at once: it is cut once
            try:
                return self._remembered(key, lambda: cut_clip(path, rule, start_s, end_s))
            finally:
                with self._lock:
                    self._busy.pop(key, None)

    def _remembered(self, key: str, cut: Callable[[], Clip]) -> Clip:
        with self._lock:
            if key in self._recent:
                self._recent.move_to_end(key)
                return self._recent[key]
        clip = self._read(key)
        if clip is None:
            clip = cut()
            self._write(key, clip)
        with self._lock:
            self._recent[key] = clip
            while len(self._recent) > REMEMBERED:
                self._recent.popitem(last=False)
        return clip

    def _read(self, key: str) -> Clip | None:
        if self._folder is None:
            return None
        try:
            with zipfile.ZipFile(self._folder / f"{key}.zip") as file:
                start_s, *times = parse_json(file.read("times.json"))
                frames = tuple(file.read(f"{i:04d}.jpg") for i in range(len(times)))
            os.utime(self._folder / f"{key}.zip")
            return Clip(frames, tuple(times), start_s)
        except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile):
            return None

    def _write(self, key: str, clip: Clip) -> None:
        if self._folder is None:
            return
        temporary = self._folder / f".{key}.{os.getpid()}.{threading.get_ident()}.tmp"
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as file:
            file.writestr("times.json", json.dumps([clip.start_s, *clip.times_s]))
            for i, frame in enumerate(clip.frames):
                file.writestr(f"{i:04d}.jpg", frame)
        temporary.replace(self._folder / f"{key}.zip")


@lru_cache(maxsize=256)
def content_digest(path: str, size: int, time_ns: int) -> str:
    """A digest of a file's content; read again only when its size or time has changed."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def _trim(folder: Path) -> None:
    """Delete the clips that were used longest ago, until `MAX_BYTES` are left."""
    files = sorted(
        ((p.stat().st_mtime, p.stat().st_size, p) for p in folder.glob("*.zip")), key=lambda f: f[0]
    )
    total = sum(size for _, size, _ in files)
    for _, size, path in files:
        if total <= MAX_BYTES:
            return
        path.unlink(missing_ok=True)
        total -= size


# A clip: the frames of a video at fixed steps of time, as JPEG, with their exact times.

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
    """Encoded frames with their times in seconds from the start of the window, rising.

    `start_s` is that start in the video. The window begins with the first picture, if that comes late.
    """

    frames: tuple[bytes, ...]
    times_s: tuple[float, ...]
    start_s: float = 0.0


def cut_clip(
    path: Path, rule: ClipRule, start_s: float | None = None, end_s: float | None = None
) -> Clip:
    """The clip of `path` between `start_s` and `end_s`. Raises RowError for what can't be used."""
    with _usable(path, rule) as video:
        info = video.info
        window = _window(path.name, info, start_s, end_s, rule)
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
    _whole(path.name, info, times, len(frames), reached_s)
    return Clip(tuple(frames), tuple(shown), window[0])


def _window(
    name: str, info: VideoInfo, start_s: float | None, end_s: float | None, rule: ClipRule
) -> tuple[float, float]:
    start, length = start_s or 0.0, info.end_s
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
    if end is not None and info.start_s >= end:
        raise RowError(
            "video_window",
            f"the window ends at {end:g} s, and the first picture of {name!r} is at {info.start_s:g} s",
        )
    start = max(start, info.start_s)
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
    """Times in equal steps from `start_s` to before the end; two at least."""
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
    if info.end_s is not None and reached_s + slack < times[-1]:
        raise RowError(
            "video_truncated",
            f"video {name!r} ends at {reached_s:.1f} s of the {info.end_s:.1f} s that it names",
        )
    if frames < 2:
        raise RowError("clip_step", f"video {name!r} gives one frame; a clip needs two")


def encoded(image: Image.Image, max_pixels: int) -> bytes:
    """A frame as JPEG of at most `max_pixels`."""
    out = io.BytesIO()
    scaled(image, max_pixels).convert("RGB").save(out, "JPEG", quality=QUALITY, subsampling=0)
    return out.getvalue()


def cut_frame(path: Path, rule: ClipRule, at_s: float) -> bytes:
    """The frame that a video shows at a time, as JPEG. Raises RowError."""
    with _usable(path, rule) as video:
        for _, image in video.frames_at([at_s]):
            return encoded(image, rule.max_pixels)
        raise RowError("video_window", f"video {path.name!r} shows nothing at {at_s:g} s")


@contextmanager
def _usable(path: Path, rule: ClipRule) -> Iterator[Video]:
    """An open video whose frames are not too large to decode. Raises RowError."""
    limit = refused_above(rule.max_pixels)
    with closing(open_video(path, limit)) as video:
        info = video.info
        if info.width * info.height > limit:
            raise RowError(
                "image_huge", f"a video of {info.width} x {info.height} pixels is too large"
            )
        yield video

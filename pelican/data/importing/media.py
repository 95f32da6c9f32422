"""Images and videos of a source: found by their paths, decoded, scaled."""

from __future__ import annotations

import io
import os
import re
import shlex
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

from PIL import Image

from pelican.data.formats.base import Media
from pelican.data.formats.medium import PICTURE_ENDINGS
from pelican.data.images import (
    WORDS,
    Range,
    checked_image,
    image_digest,
    is_deep,
    opened,
    refuse_huge,
    seen_again,
    upright_size,
    usable,
)
from pelican.data.tables import RowError, named
from pelican.data.video import Clip, ClipCache, ClipRule, cut_frame
from pelican.errors import UserInputError

# Where the media of a source lie: paths of rows to files below the folders that are allowed.

MAX_PATH = 4096  # characters, as Linux takes
PARTS = 16  # last parts of a path that are looked for
FOLDERS = 16  # of one level that are looked into for a hint


@lru_cache(maxsize=1024)
def _resolved(folder: str) -> str:
    """The folder with its links followed; cached, because many files share few folders."""
    return str(Path(folder).resolve())


def _followed(base: str, rest: str) -> tuple[str, int]:
    """The real path of `rest` below `base`, every link followed, and its mode; 0 if nothing is there."""
    parent, name = os.path.split(os.path.join(base, rest))
    if name in ("", ".", ".."):
        target = str(Path(base, rest).resolve())
        return target, _mode(target)
    target = os.path.join(_resolved(parent), name)
    mode = _mode(target)
    if stat.S_ISLNK(mode):
        target = str(Path(target).resolve())
        mode = _mode(target)
    return target, mode


def _mode(path: str) -> int:
    """The mode (type and rights) of `path`, of a link itself; 0 if nothing is there."""
    try:
        return os.lstat(path).st_mode
    except (OSError, ValueError):
        return 0


@lru_cache(maxsize=64)
def _folders(root: str) -> tuple[str, ...]:
    """The first few folders one and two levels below `root`, in which a hint looks for a file."""
    found: list[str] = []
    level = [root]
    for _ in range(2):
        below: list[str] = []
        for folder in level:
            with suppress(OSError), os.scandir(folder) as entries:
                below += sorted(e.path for e in entries if e.is_dir(follow_symlinks=False))
        level = below[:FOLDERS]
        found += level
    return tuple(found)


@dataclass(frozen=True)
class Finder:
    """Finds the files that rows name. `mapping`: prefix in the data -> folder here; `roots` in order.

    Nothing outside `roots` and the mapped folders is opened, whatever a row names.
    """

    roots: tuple[Path, ...]
    mapping: tuple[tuple[str, Path], ...] = ()

    def find(self, path: str, *, folder: bool = False) -> Path:
        """The file or folder that a row names. Raises RowError, with the mapping that would help."""
        if "://" in path[:MAX_PATH]:
            raise RowError("media_missing", f"{named(path)} is an address; download it first")
        if len(path) > MAX_PATH:
            raise RowError(
                "media_path",
                f"{named(path)} has {len(path):,} characters: no path, and no picture in base64",
            )
        if "\x00" in path or any("\ud800" <= char <= "\udfff" for char in path):
            raise RowError("media_path", "a path holds a zero byte or text that is not UTF-8")
        for prefix, here in self.mapping:
            if path == prefix or path.startswith(prefix.rstrip("/") + "/"):
                rest = path[len(prefix.rstrip("/")) :].lstrip("/")
                found = self._inside(here, rest, path, folder)
                if found is None:
                    raise RowError(
                        "media_missing", f"{named(path)} is not in {here}, where --map puts it"
                    )
                return found
        if not path.startswith("/"):
            for root in self.roots:
                found = self._inside(root, path, path, folder)
                if found is not None:
                    return found
            raise RowError(
                "media_missing",
                f"{named(path)} is below none of the media folders{self._hint(path)}",
            )
        for root in self.roots:
            base = _resolved(str(root))
            if Path(path).is_relative_to(base):
                found = self._inside(root, str(Path(path).relative_to(base)), path, folder)
                if found is not None:
                    return found
                raise RowError("media_missing", f"{named(path)} does not exist")
        raise RowError(
            "media_missing", f"{named(path)} is outside the media folders{self._hint(path)}"
        )

    def _inside(self, root: Path, rest: str, path: str, folder: bool) -> Path | None:
        try:
            base = _resolved(str(root))
            target, mode = _followed(base, rest)
            if target != base and not target.startswith(base.rstrip("/") + "/"):
                raise RowError("media_path", f"{named(path)} leaves the media folder")
            there = stat.S_ISDIR(mode) if folder else stat.S_ISREG(mode)
            return Path(target) if there else None
        except OSError as error:
            raise RowError("media_path", f"{named(path)} is no path ({error.strerror})") from None
        except RuntimeError:
            raise RowError("media_path", f"{named(path)} is a loop of links") from None

    def _hint(self, path: str) -> str:
        """The option that would find the file: --map where its last parts are below a root, else --media."""
        parts = Path(path).parts
        if ".." in parts:
            return ""
        for start in range(max(1, len(parts) - PARTS), len(parts)):
            rest = Path(*parts[start:])
            for root in self.roots:
                if os.path.exists(root / rest):
                    return f"; --map {shlex.quote(f'{Path(*parts[:start])}={root}')} would find it"
        if path.startswith("/"):
            return "; --map OLD=NEW says where they lie"
        for root in self.roots:
            for folder in _folders(str(root)):
                if os.path.exists(os.path.join(folder, path)):
                    return f"; --media {shlex.quote(folder)} would find it"
        return ""


# Media of a record: found below the allowed folders, opened, turned upright, scaled down.

MIN_SIDE = 4  # pixels; below, nothing can be seen
MAX_ASPECT = 100.0  # Qwen2-VL's processor refuses 200 and above
MAX_FILE = 64 << 20  # bytes of an encoded image: above, it has more pixels than are decoded
DARK = 1 / 4  # of white: 16 bits whose brightest value is below are depth, or of a sensor of fewer
_MOVING = ("PNG", "WEBP")  # formats that may be animations
_DEPTH = re.compile(r"(?:^|[^a-z])(?:depth|disparity)(?![a-z])", re.IGNORECASE)  # in a path


@dataclass(frozen=True, slots=True)
class Loaded:
    """Encoded images with times; `sizes` (width, height) of stills before they were scaled."""

    images: tuple[bytes, ...]
    times_s: tuple[float, ...]
    clip: bool
    sizes: tuple[tuple[int, int], ...]  # of a clip that of its first frame, as it is kept
    start_s: float = 0.0  # second 0 of the clip in its video
    scene: str = ""  # what tells the medium from others

    @property
    def size(self) -> tuple[int, int]:
        return self.sizes[0]


# No picture; what an answer says about one is refused by `answer_fits`.
TEXT_ALONE = Loaded((), (), False, ((1, 1),))


@dataclass
class Loader:
    """Opens the media of records. Threads may share it."""

    finder: Finder
    rule: ClipRule
    clips: ClipCache
    grey: Range | None = None  # black and white of images of 16 bits, where somebody said so

    def load(self, media: Sequence[Media]) -> Loaded:
        """Stills in their order, or the frames of one clip or several. Raises RowError."""
        if not media:
            raise RowError(
                "media_missing",
                "the row names no image and no video; if it is a question in text alone, --text-rows"
                " takes it",
            )
        kinds = {m.kind for m in media}
        if kinds <= {"image", "still"}:
            return self._stills(media)
        if kinds & {"image", "still"}:
            raise RowError("media_mixed", "a row has images and videos; keep them in two rows")
        return self._clips(media)

    def _stills(self, media: Sequence[Media]) -> Loaded:
        read = [self.image_bytes(m) for m in media]
        prepared = [self._seen(m, data) for m, data in zip(media, read, strict=True)]
        images = tuple(data for data, _ in prepared)
        clip = len(media) > 1 and all(m.start_s is not None for m in media)
        times = (
            tuple(m.start_s or 0.0 for m in media) if clip else tuple(map(float, range(len(media))))
        )
        scene = media[0].path or image_digest(read[0]).hex()
        return Loaded(images, times, clip, tuple(size for _, size in prepared), scene=scene)

    def _seen(self, medium: Media, data: bytes) -> tuple[bytes, tuple[int, int]]:
        """The image as the pool keeps it, and its size before it was scaled; an error names the file."""
        try:
            depth = bool(_DEPTH.search(medium.path))
            return _prepared(data, self.rule.max_pixels, self.grey, depth)
        except RowError as error:
            name = f"{named(medium.path)}: " if medium.path else ""
            raise RowError(error.code, f"{name}{error.reason}") from None

    def image_bytes(self, medium: Media) -> bytes:
        """The encoded bytes of an image, its own, of its file or of a video. Raises RowError."""
        if medium.kind == "still":
            return cut_frame(self.finder.find(medium.path), self.rule, medium.start_s or 0.0)
        if medium.data is not None:
            return medium.data
        return _read(self.finder.find(medium.path), medium.path)

    def _clips(self, media: Sequence[Media]) -> Loaded:
        images: list[bytes] = []
        times: list[float] = []
        scene, start_s = "", 0.0
        for medium in media:
            clip, path = self._clip(medium)
            start_s = start_s if times else clip.start_s
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
        return Loaded(tuple(images), tuple(times), True, (size,), start_s, scene)

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
                "media_missing", f"{named(medium.path)} can't be read ({error.strerror})"
            ) from None

    def _frames(self, medium: Media) -> Clip:
        """The pictures of a video, in their order; sampled by time at their rate."""
        files = medium.pictures or self._listed(medium.path)
        what = named(medium.path) if medium.path else "a video of pictures"
        if len(files) < 2:
            raise RowError("clip_step", f"{what} holds {len(files)} frames; a clip needs two")
        fps = 1.0 if medium.fps is None else medium.fps
        if not fps > 0:
            raise RowError("schema", f"{what} has {fps:g} frames a second; mend its `fps`")
        start = medium.start_s or 0.0
        first = max(0, int(start * fps))
        last = len(files) if medium.end_s is None else min(len(files), int(medium.end_s * fps) + 1)
        span = (last - first - 1) / fps
        if span <= 0:
            raise RowError("video_window", f"the window of {what} is empty")
        if self.rule.horizon_s is not None and span > self.rule.horizon_s:
            raise RowError(
                "clip_long",
                f"a clip of {span:.1f} s is longer than the horizon of {self.rule.horizon_s:g} s",
            )
        step = max(1, round(max(self.rule.step_s, span / self.rule.max_frames) * fps))
        chosen = range(first, last, step)
        frames = tuple(self._seen(files[i], self.image_bytes(files[i]))[0] for i in chosen)
        if len(frames) < 2:
            raise RowError("clip_step", f"{what} has one frame in its window; a clip needs two")
        return Clip(frames, tuple(round((i - first) / fps, 6) for i in chosen), start)

    def _listed(self, path: str) -> list[Media]:
        """The pictures of a folder, by their names."""
        names = [
            p
            for p in self.finder.find(path, folder=True).iterdir()
            if p.suffix.lower() in PICTURE_ENDINGS
        ]
        names = sorted(p for p in names if not p.stem.endswith(("-depth", "_depth")))
        # By the finder, each: a folder inside may hold a link that leads out.
        return [Media("image", f"{path.rstrip('/')}/{p.name}") for p in names]


def _read(path: Path, name: str) -> bytes:
    """The bytes of an image file that a row calls `name`. Raises RowError."""
    try:
        # Four calls instead of nine: each hands the interpreter's lock to another thread and back.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(handle).st_size
            if size > MAX_FILE:
                raise RowError("image_huge", f"{named(name)} has {size >> 20} MB")
            if size == 0:
                raise RowError("image_unreadable", f"{named(name)} is empty")
            data = os.read(handle, size)
            while len(data) < size and (more := os.read(handle, size - len(data))):
                data += more
            return data
        finally:
            os.close(handle)
    except OSError as error:
        raise RowError("media_missing", f"{named(name)} can't be read ({error.strerror})") from None


@lru_cache(maxsize=16)  # the questions of one image stand together; one may be large
def _prepared(
    data: bytes, max_pixels: int, values: Range | None, depth: bool
) -> tuple[bytes, tuple[int, int]]:
    """An image as a person sees it, of at most `max_pixels`; its (width, height) before it was scaled.

    Encoded again only where a viewer shows other pixels than a decoder gives, or where it is scaled.
    `values` are black and white of 16 bits, if somebody said so; `depth`: its name says that it is
    depth. Raises RowError.
    """
    with opened(data) as image:
        width, height = image.size
        if min(width, height) < MIN_SIDE or max(width, height) > MAX_ASPECT * min(width, height):
            raise RowError(
                "image_shape",
                f"an image of {width} x {height} pixels is too small or narrow to show anything",
            )
        if image.format in _MOVING and (pictures := getattr(image, "n_frames", 1)) > 1:
            raise RowError(
                "image_moving",
                f"an animation of {pictures} pictures is no still; give it as a video, or one of its"
                " pictures",
            )
        refuse_huge(image, max_pixels)
        if is_deep(image):
            values = values or _full_range(image, depth)
        seen = seen_again(image, data, values or WORDS)
        if seen is data:
            return usable(image, data, max_pixels), (width, height)
        size = upright_size(image)
    return checked_image(seen, max_pixels), size


def _full_range(image: Image.Image, depth: bool) -> Range:
    """Black and white of 16 bits where nobody said: all of them, if that shows anything."""
    low, high = cast("tuple[int, int]", image.getextrema())
    if depth or high < WORDS[1] * DARK:
        why = "is called depth" if depth else f"would be all dark with values of {low} to {high}"
        raise RowError(
            "image_range",
            f"an image of 16 bits {why}; say which values are black and white, the same in every"
            f" image, with --grey-range LOW:HIGH ({WORDS[0]}:{WORDS[1]} for photos)",
        )
    return WORDS

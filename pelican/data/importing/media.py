"""Images and videos of a source: found by their paths, decoded, scaled."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageOps

from pelican.data.formats.base import Media
from pelican.data.images import FORMATS, JPEGS, checked_image, decoding, image_digest, usable
from pelican.data.tables import RowError
from pelican.data.video import Clip, ClipCache, ClipRule, cut_frame
from pelican.errors import UserInputError

# Where the media of a source lie: paths of rows to files below the folders that are allowed.

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
        if "://" in path:
            raise RowError("media_missing", f"{path!r} is an address; download it first")
        if "\x00" in path or any("\ud800" <= char <= "\udfff" for char in path):
            raise RowError("media_path", "a path holds a zero byte or text that is not UTF-8")
        for prefix, here in self.mapping:
            if path == prefix or path.startswith(prefix.rstrip("/") + "/"):
                rest = path[len(prefix.rstrip("/")) :].lstrip("/")
                found = self._inside(here, rest, path, folder)
                if found is None:
                    raise RowError(
                        "media_missing", f"{path!r} is not in {here}, where --map puts it"
                    )
                return found
        if not path.startswith("/"):
            for root in self.roots:
                found = self._inside(root, path, path, folder)
                if found is not None:
                    return found
            raise RowError(
                "media_missing", f"{path!r} is below none of the media folders{self._hint(path)}"
            )
        for root in self.roots:
            base = _resolved(str(root))
            if Path(path).is_relative_to(base):
                found = self._inside(root, str(Path(path).relative_to(base)), path, folder)
                if found is not None:
                    return found
                raise RowError("media_missing", f"{path!r} does not exist")
        raise RowError("media_missing", f"{path!r} is outside the media folders{self._hint(path)}")

    def _inside(self, root: Path, rest: str, path: str, folder: bool) -> Path | None:
        try:
            base = _resolved(str(root))
            target, mode = _followed(base, rest)
            if target != base and not target.startswith(base.rstrip("/") + "/"):
                raise RowError("media_path", f"{path!r} leaves the media folder")
            there = stat.S_ISDIR(mode) if folder else stat.S_ISREG(mode)
            return Path(target) if there else None
        except OSError as error:
            raise RowError("media_path", f"{path!r:.200} is no path ({error.strerror})") from None
        except RuntimeError:
            raise RowError("media_path", f"{path!r} is a loop of links") from None

    def _hint(self, path: str) -> str:
        """The option that would find the file: --map where its last parts are below a root, else --media."""
        parts = Path(path).parts
        if ".." in parts:
            return ""
        for start in range(1, len(parts)):
            rest = Path(*parts[start:])
            for root in self.roots:
                if os.path.exists(root / rest):
                    return f"; --map {Path(*parts[:start])}={root} would find it"
        if path.startswith("/"):
            return "; --map OLD=NEW says where they lie"
        for root in self.roots:
            for folder in _folders(str(root)):
                if os.path.exists(os.path.join(folder, path)):
                    return f"; --media {folder} would find it"
        return ""


# Media of a record: found below the allowed folders, opened, turned upright, scaled down.

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


# No picture; what an answer says about one is refused by `answer_fits`.
TEXT_ALONE = Loaded((), (), False, (1, 1))


@dataclass
class Loader:
    """Opens the media of records. Threads may share it."""

    finder: Finder
    rule: ClipRule
    clips: ClipCache

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
        """The encoded bytes of an image, its own, of its file or of a video. Raises RowError."""
        if medium.kind == "still":
            return cut_frame(self.finder.find(medium.path), self.rule, medium.start_s or 0.0)
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
            raise RowError(
                "clip_step", f"folder {medium.path!r} holds {len(paths)} frames; a clip needs two"
            )
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
            raise RowError(
                "clip_step", f"folder {medium.path!r} has one frame in its window; a clip needs two"
            )
        return Clip(frames, tuple(round((i - first) / fps, 6) for i in chosen))


def _named(medium: Media, data: bytes, max_pixels: int) -> tuple[bytes, tuple[int, int]]:
    """As `_prepared`, but the error names the file."""
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
            raise RowError(
                "image_shape",
                f"an image of {width} x {height} pixels is too small or narrow to show anything",
            )
        said = "exif" in image.info or "xmp" in image.info
        if image.format not in JPEGS or not said or image.getexif().get(_ORIENTATION, 1) == 1:
            return usable(image, data, max_pixels), (width, height)
        if width * height > 1 << 26:
            raise RowError("image_huge", f"an image of {width} x {height} pixels is too large")
        turned = ImageOps.exif_transpose(image).convert("RGB")
        out = io.BytesIO()
        turned.save(out, "JPEG", quality=95, subsampling=0)
    return checked_image(out.getvalue(), max_pixels), turned.size

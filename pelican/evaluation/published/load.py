"""From a folder to questions, and from a question to a sample that an engine can answer."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pelican.base.files import resolve_below
from pelican.base.parse import parse_json
from pelican.data.formats.medium import inline
from pelican.data.images import FORMATS, as_seen, checked_image, image_bytes, scaled
from pelican.data.tables import Quarantine, RowError
from pelican.data.video import open_video
from pelican.errors import UserInputError
from pelican.evaluation.published.base import Benchmark, Clip, Picture, Question, Row
from pelican.records import Sample, Split, TextAnswer, Turn

# Rows of JSON, JSON Lines, TSV and Parquet files, and the images and masks that they name.

_PLACEHOLDER = re.compile(r"\s*<image(?:\s*\d+)?>\s*")


def files_below(folder: Path, patterns: Iterable[str], wanted: str) -> list[Path]:
    """The files of the first pattern that matches any; `wanted` names them in the error."""
    if not folder.is_dir():
        raise UserInputError(f"{folder} is not a folder; give --data the benchmark's folder")
    for pattern in patterns:
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if found:
            return found
    raise UserInputError(
        f"{folder} holds no {wanted}; docs/published-benchmarks.md gives the layouts"
    )


def read_file(path: Path) -> Iterator[Row]:
    """The rows of one file, by its ending."""
    try:
        if path.suffix == ".parquet":
            yield from _parquet(path)
        elif path.suffix == ".tsv":
            yield from _tsv(path)
        elif path.suffix == ".jsonl":
            for line in path.read_text(encoding="utf-8").split("\n"):
                if line.strip():
                    yield _object(parse_json(line), path)
        else:
            value = parse_json(path.read_text(encoding="utf-8"))
            for row in value if isinstance(value, list) else [value]:
                yield _object(row, path)
    except (ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserInputError(f"{path} can't be read ({reason}); download it again") from None


def read_files(paths: Iterable[Path], folder: Path) -> Iterator[tuple[str, Row]]:
    """The rows of several files, each with its file's name below `folder`."""
    for path in paths:
        for row in read_file(path):
            yield path.relative_to(folder).as_posix(), row


def _object(value: object, path: Path) -> Row:
    if not isinstance(value, dict):
        raise UserInputError(f"{path} holds a {type(value).__name__} where a row is expected")
    return value


def _parquet(path: Path) -> Iterator[Row]:
    from pelican.data.tables import open_parquet

    for batch in open_parquet(path).iter_batches(batch_size=32):
        yield from batch.to_pylist()


def _tsv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(min(sys.maxsize, 1 << 31))  # a cell holds a whole image
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file, delimiter="\t")


def text(row: Row, *names: str) -> str:
    """The first of these fields that is there, as text. Raises RowError if it is empty."""
    for name in names:
        value = row.get(name)
        if value is not None and str(value).strip():
            return str(value)
    raise RowError("schema", f"{' or '.join(names)} is missing")


def texts(row: Row, name: str) -> tuple[str, ...]:
    """A list of at least two texts, also if it stands as JSON or Python in a cell."""
    value = row.get(name)
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ValueError:
            value = None
    if not isinstance(value, list) or len(value) < 2:
        raise RowError("schema", f"{name} is not a list of at least two options")
    return tuple(str(item) for item in value)


def letter_of(answer: object, options: int) -> str:
    """A letter from "B", "(B)" or the index 1. Raises RowError if it is outside the options."""
    if isinstance(answer, int) and not isinstance(answer, bool):
        index = answer
    else:
        bare = str(answer).strip().strip("().").upper()
        index = int(bare) if bare.isdecimal() else ord(bare) - ord("A") if len(bare) == 1 else -1
    if not 0 <= index < options:
        raise RowError("answer", f"answer {answer!r} is outside its {options} options")
    return chr(ord("A") + index)


def lettered(options: Iterable[str], form: str) -> str:
    """One option a line, such as "(A) red"; `form` has the fields letter and option."""
    return "\n".join(
        form.format(letter=chr(ord("A") + i), option=option) for i, option in enumerate(options)
    )


def without_placeholders(prompt: str) -> str:
    """The text without `<image>`: all images stand before it, in their order."""
    return _PLACEHOLDER.sub(" ", prompt).strip() if "<image" in prompt else prompt


def picture(value: object) -> Picture:
    """An image as it stands in a row: Parquet's bytes and path, a path, or base64."""
    if isinstance(value, dict):
        if value.get("bytes"):
            return Picture(data=value["bytes"])
        value = value.get("path")
    if isinstance(value, bytes) and value:
        return Picture(data=value)
    if not isinstance(value, str) or not value:
        raise RowError("image_missing", "an image is missing")
    if value[:5].lower() == "data:":
        return Picture(data=inline(value))
    if len(value) < 512:  # no image is as small in base64
        return Picture(path=value)
    try:
        return Picture(data=base64.b64decode(value, validate=True))
    except (binascii.Error, ValueError):
        raise RowError("image_unreadable", "an image is not base64") from None


def pictures(values: Iterable[object]) -> tuple[Picture, ...]:
    """The images that are there. Raises RowError if none is."""
    found = tuple(picture(value) for value in values if value is not None)
    if not found:
        raise RowError("image_missing", "the row has no image")
    return found


def encoded(image: Picture, folder: Path) -> bytes:
    """The bytes of an image. Raises RowError, also if its path leaves the folder."""
    return image_bytes({"bytes": image.data, "path": image.path}, folder)


def grey_values(image: Picture, folder: Path) -> NDArray[np.float64]:
    """A mask as values 0 … 1, shape [height, width]: the first channel over 255."""
    try:
        with Image.open(io.BytesIO(encoded(image, folder)), formats=FORMATS) as opened:
            pixels: NDArray[Any] = np.asarray(opened)
    except RowError:
        raise
    except Exception as error:  # a decoder raises whatever it likes
        raise RowError("image_unreadable", f"a mask can't be decoded ({error})") from None
    if pixels.ndim == 3:
        pixels = pixels[:, :, 0]
    if pixels.dtype == bool:
        return pixels.astype(np.float64)
    return pixels.astype(np.float64) / 255.0


# A few frames of a clip: evenly spread over the part that is asked about, as JPEG.

_ENDINGS = frozenset({".jpg", ".jpeg", ".png"})
Frames = tuple[list[float], list[bytes]]


def read_frames(clip: Clip, folder: Path, count: int, max_pixels: int) -> Frames:
    """The frames in the middle of `count` equal parts, with their times; fewer in a short clip.

    Raises RowError if the clip can't be read or its path leaves the folder.
    """
    try:
        path = resolve_below(folder, clip.path)
    except UserInputError:
        raise RowError("image_path", f"clip path {clip.path!r} leaves the data folder") from None
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
                yield index / fps, as_seen(image)


def _of_video(path: Path, clip: Clip, count: int) -> Iterator[tuple[float, Image.Image]]:
    """The frame nearest to each wanted time."""
    video = open_video(path)
    try:
        if video.info.end_s is None:
            raise RowError("video_unreadable", f"the length of clip {clip.path!r} is not known")
        end = min(video.info.end_s, math.inf if clip.end_s is None else clip.end_s)
        start = max(clip.start_s, video.info.start_s)
        step = (end - start) / count
        # `frames_at` gives the frame shown at a time: half a frame later, that is the nearest one.
        half = 0.499 / (video.info.fps or 25.0)
        if step > 0:
            yield from video.frames_at(
                [start + (part + 0.5) * step + half for part in range(count)]
            )
    finally:
        video.close()


def _jpeg(image: Image.Image, max_pixels: int) -> bytes:
    out = io.BytesIO()
    scaled(image.convert("RGB"), max_pixels).save(out, "JPEG", quality=95)
    return out.getvalue()


# From a folder to questions, and from a question to a sample that an engine can answer.

Placed = tuple[str, int, Question]  # file, row, question


@dataclass
class LeftOut:
    """What `load` does not yield: quarantined rows, and the number of questions without a public
    answer.
    """

    quarantine: Quarantine = field(default_factory=Quarantine)
    not_public: int = 0


def load(benchmark: Benchmark, folder: Path, left_out: LeftOut) -> Iterator[Placed]:
    """The usable questions with their file and row; what can't be used is quarantined."""
    ids: set[str] = set()
    numbers: Counter[str] = Counter()
    for file, row in benchmark.rows(folder):
        number = numbers[file]
        numbers[file] += 1
        name = ""
        try:
            question = benchmark.question(row, folder)
            if question is None:
                left_out.not_public += 1
                continue
            name = question.id
            if name in ids:
                raise RowError("duplicate_id", f"id {name!r} occurred before")
            ids.add(name)
        except RowError as error:
            left_out.quarantine.add(file, number, name, error)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            # A field of another type than the layout says.
            wrong = RowError("schema", f"a field does not fit ({type(error).__name__}: {error})")
            left_out.quarantine.add(file, number, name, wrong)
        else:
            yield file, number, question


def sample_of(
    benchmark: Benchmark, question: Question, folder: Path, *, frames: int, max_pixels: int
) -> Sample:
    """The question for an engine, with its media read. The benchmark's own rule grades it.

    Raises RowError if the media can't be used, or if a mask is missing that points are to lie in.
    """
    if question.mask is not None:
        encoded(question.mask, folder)
    if isinstance(question.media, Clip):
        times, images = read_frames(question.media, folder, frames, max_pixels)
    else:
        images = [checked_image(encoded(p, folder), max_pixels) for p in question.media]
        times = [float(i) for i in range(len(images))]
    clip = isinstance(question.media, Clip) and len(images) > 1
    return sample_with(benchmark, question, clip, times, images)


def sample_with(
    benchmark: Benchmark,
    question: Question,
    clip: bool,
    times: Sequence[float],
    images: Sequence[bytes],
) -> Sample:
    """The question with these images, in the order of their times in seconds."""
    return Sample(
        id=question.id,
        media_kind="clip" if clip else "image",
        images=tuple(images),
        times_s=tuple(times),
        turns=(Turn(role="user", text=question.prompt),),
        family=benchmark.family,
        dimension=benchmark.dimension,
        answer=TextAnswer(value=question.truth),
        source=benchmark.name,
        scene=question.scene or question.id,
        split=Split.TEST,
        benchmark=benchmark.name,
        chance=question.chance,
    )

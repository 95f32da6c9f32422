"""From a folder to questions, and from a question to a sample that an engine can answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pelican.benchmarks.base import Benchmark, Clip, Question
from pelican.benchmarks.files import encoded
from pelican.benchmarks.frames import read_frames
from pelican.data.images import checked_image
from pelican.data.quarantine import Quarantine, RowError
from pelican.records import Sample, Split, TextAnswer, Turn

Placed = tuple[str, int, Question]  # file, row, question


@dataclass
class Loaded:
    """Questions of a folder as they are read; `not_public` have no answer to score against."""

    quarantine: Quarantine = field(default_factory=Quarantine)
    not_public: int = 0


def load(benchmark: Benchmark, folder: Path, loaded: Loaded) -> Iterator[Placed]:
    """The usable questions with their file and row; what can't be used is quarantined."""
    seen: set[str] = set()
    numbers: Counter[str] = Counter()
    for file, row in benchmark.rows(folder):
        number = numbers[file]
        numbers[file] += 1
        name = ""
        try:
            question = benchmark.question(row, folder)
            if question is None:
                loaded.not_public += 1
                continue
            name = question.id
            if name in seen:
                raise RowError("duplicate_id", f"id {name!r} occurred before")
            seen.add(name)
        except RowError as error:
            loaded.quarantine.add(file, number, name, error)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            # A field of another type than the layout says.
            wrong = RowError("schema", f"a field does not fit ({type(error).__name__}: {error})")
            loaded.quarantine.add(file, number, name, wrong)
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

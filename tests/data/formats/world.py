"""Small realistic media, and one way to import what a test wrote."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from pelican.cli.data import Wishes, make_plan
from pelican.config.recipe import RewardConfig
from pelican.data.importing.run import run_import
from pelican.data.pool import load_pool
from pelican.data.versions import read_quarantine
from pelican.records import Sample
from pelican.rewards import score
from pelican.rewards.replies import as_reply


def draw(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A smooth picture that differs from seed to seed, and survives JPEG."""
    small = np.random.default_rng(seed).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def image(path: Path, seed: int = 0, size: tuple[int, int] = (64, 48)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(seed, size).save(path)
    return path


def mask(path: Path, box: tuple[int, int, int, int], size: tuple[int, int] = (64, 48)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("L", size)
    picture.paste(255, box)
    picture.save(path)
    return path


def video(
    path: Path,
    length_s: float = 4.0,
    fps: int = 5,
    size: tuple[int, int] = (64, 48),
    *,
    seed: int = 0,
    rotation: int = 0,
    times_s: Sequence[float] | None = None,
    options: dict[str, str] | None = None,
    b_frames: int = 3,
) -> Path:
    """An H.264 video whose every frame is grey by its number (5 a step), with a corner that is red.

    `times_s` gives frames of their own times (variable rate).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options or {}) as file:
        stream = file.add_stream("libx264", rate=fps)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "10", "g": "10", "bf": str(b_frames)}
        if rotation:
            stream.set_display_rotation(rotation)
        whole = times_s if times_s is not None else [i / fps for i in range(round(length_s * fps))]
        if times_s is not None:
            from fractions import Fraction

            stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(whole):
            pixels = np.full((size[1], size[0], 3), (seed * 40 + number * 5) % 250, dtype=np.uint8)
            pixels[: size[1] // 4, : size[0] // 4] = (250, 0, 0)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times_s is not None:
                frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    )
    return path


@dataclass
class Outcome:
    """What an import left: the samples by id as the metaloop's reader gives them, and the rest."""

    reader: str
    samples: dict[str, Sample]
    bad: dict[str, str]  # id or place -> code
    reasons: dict[str, str]
    pool: Path


def imported(source: Path, out: Path, **wishes: Any) -> Outcome:
    """Import `source` as the command does, and read the pool back with the metaloop's own checks."""
    plan = make_plan(str(source), replace(Wishes(workers=2, step_s=1.0), **wishes))
    run_import(plan, out, lambda tally: None)
    pool = load_pool(out, max_pixels=1_003_520, horizon_s=None)
    assert not pool.quarantine.rows, pool.quarantine.rows[:3]
    opens_in_datasets(out, pool.samples)
    for sample in pool.samples:
        own_reference_earns_1(sample)
    rows = list(read_quarantine(out))
    return Outcome(
        plan.reader.name,
        {sample.id: sample for sample in pool.samples},
        {row["id"] or row["place"]: row["code"] for row in rows},
        {row["id"] or row["place"]: row["reason"] for row in rows},
        out,
    )


def own_reference_earns_1(sample: Sample) -> None:
    """Of every reader and every kind but the judge's: the reference, as a policy would reply, earns 1."""
    if sample.answer.kind == "open":
        return
    reply = as_reply(sample.answer)
    for said in (reply, f"<think>I looked.</think><answer>{reply}</answer>"):
        found = score(sample, said, RewardConfig())
        assert found.task == 1, (sample.id, sample.answer, said, found.reason)


def opens_in_datasets(pool: Path, samples: Sequence[Sample]) -> None:
    """Hugging Face's library, where it is installed, gives every row back, its images decoded."""
    if find_spec("datasets") is None:
        return
    import datasets
    import pyarrow.parquet as pq

    rows = [
        row
        for path in sorted(pool.glob("*.parquet"))
        for row in datasets.Dataset(pq.read_table(path))
    ]
    assert [row["id"] for row in rows] == [sample.id for sample in samples]
    for row, sample in zip(rows, samples, strict=True):
        sizes = []
        for data in sample.images:
            with Image.open(io.BytesIO(data)) as picture:
                sizes.append(picture.size)
        assert [picture.size for picture in row["images"]] == sizes


def brief(sample: Sample) -> tuple[str, str, str]:
    """(kind of answer, its value in few words, family)."""
    answer = sample.answer
    value = {
        "choice": lambda: f"{answer.answer} of {len(answer.options)}",
        "points": lambda: f"mask {answer.mask.size[1]}x{answer.mask.size[0]} scale {answer.scale}",
        "count": lambda: str(answer.value),
        "distance": lambda: f"{answer.value:g} {answer.unit}",
        "yes_no": lambda: str(answer.value).lower(),
        "box": lambda: f"{answer.box} scale {answer.scale}",
        "interval": lambda: f"{answer.start:g} to {answer.end:g}",
        "order": lambda: " > ".join(answer.items),
        "steps": lambda: " > ".join(answer.steps),
        "text": lambda: answer.value,
        "open": lambda: answer.reference,
    }[answer.kind]()
    return str(answer.kind), str(value), sample.family.value

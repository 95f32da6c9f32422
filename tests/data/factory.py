"""Samples for tests, small and valid."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pelican.data.tables import SAMPLES, write_samples
from pelican.records import EMBODIED_FAMILIES, CountAnswer, Dimension, Family, Sample, Split, Turn

DIMENSIONS = tuple(Dimension)


def picture(seed: int = 0, size: tuple[int, int] = (16, 12), format: str = "PNG") -> bytes:
    """An encoded image of noise, width and height given."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format)
    return out.getvalue()


def sample(number: int, **changes: Any) -> Sample:
    """Sample `number`: families in turn, a scene of its own, a question that names its number."""
    values: dict[str, Any] = {
        "id": f"s{number:05d}",
        "media_kind": "image",
        "images": (picture(number),),
        "times_s": (0.0,),
        "turns": (Turn(role="user", text=f"How many cups of kind {number} are there?"),),
        "family": EMBODIED_FAMILIES[number % 6],
        "dimension": DIMENSIONS[number % 9],
        "answer": CountAnswer(value=number % 5),
        "source": "test",
        "scene": f"scene-{number}",
        "split": Split.TRAIN,
    }
    return Sample.model_validate({**values, **changes})


def clip(number: int, times_s: Sequence[float], **changes: Any) -> Sample:
    """Sample `number` as a clip with a frame at each time."""
    frames = tuple(picture(1000 * number + i) for i in range(len(times_s)))
    whole = {"media_kind": "clip", "images": frames, "times_s": tuple(times_s), **changes}
    return sample(number, **whole)


def text_sample(number: int, **changes: Any) -> Sample:
    """Sample `number` without a picture, of general replay."""
    bare: dict[str, Any] = {"media_kind": "text", "images": (), "times_s": ()}
    return general(number, **{"id": f"t{number:05d}", **bare, **changes})


def general(number: int, **changes: Any) -> Sample:
    """A replay sample."""
    return sample(number, **{"id": f"g{number:05d}", "family": Family.GENERAL, **changes})


def write_pool(folder: Path, samples: Sequence[Sample], per_shard: int = 50) -> Path:
    """A folder of shards."""
    for i in range(0, len(samples), per_shard):
        write_samples(folder / f"part-{i // per_shard:03d}.parquet", samples[i : i + per_shard])
    return folder


def raw_row(number: int, **changes: Any) -> dict[str, Any]:
    """A row as it stands in a shard, to be broken."""
    good = sample(number)
    return {
        **good.model_dump(mode="json", exclude={"images", "answer"}),
        "images": [{"bytes": image, "path": None} for image in good.images],
        "answer": good.answer.model_dump_json(),
        **changes,
    }


def write_raw(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """A shard of rows that nothing has checked; gives its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SAMPLES), path)
    return path.parent
